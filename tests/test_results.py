"""Records and tables beyond what the notebook shows: every published number a second way, odd
records and table files, the definitions in nbs/experiments/params/tables."""
import hashlib
import html
import json
import math
import os
import re
import subprocess
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from fer_nr.reading import read_yaml
from fer_nr.results import (Record, differences, paired, print_table, read_record, records,
                            runs_of, spec_of, summary, table, verdict)
from fer_nr.spec import RunSpec, read_params, spec_from
from fer_nr.sweep import fer_nr_sweep, fer_nr_tables, read_tables, specs_of
from fer_nr.tables import find_table, load_table, params_folder
from test_runs import BIN

ROOT = Path(__file__).parent.parent
TABLES = sorted(file.stem for file in (ROOT/'nbs/experiments/params/tables').glob('*.yaml'))
PUBLISHED = {file.stem: json.loads(file.read_text())
             for file in sorted((ROOT/'results').glob('*.json'))}
CANONICAL = {name: spec_from(record['spec']).canonical('name')
             for name, record in PUBLISHED.items()}


def budgets_of(name):
    "A table's own budget, and that of the first published runs where it has one to change"
    return [None, 'three_epochs'] if 'budget' in read_yaml(find_table(name)) else [None]


BUDGETS = [(name, budget) for name in TABLES for budget in budgets_of(name)]


@pytest.fixture(scope='module')
def published():
    "The published records as the package reads them"
    return records(ROOT/'results')


def of_row(spec):
    "Seed -> published record of a row, found by what its spec says, without the package's way"
    mine, found = spec.canonical('name'), {}
    for name, other in CANONICAL.items():
        if mine | {'seed': other['seed']} == other:
            found[other['seed']] = PUBLISHED[name]
    return dict(sorted(found.items()))


def equal_characters(answers, labels):
    "For each image whether its answer is right"
    return [answer == label for answer, label in zip(answers, labels, strict=True)]


def right_answers(runs):
    "(seeds, images): whether each answer to the test images is right"
    return np.array([equal_characters(record['predictions']['test'], record['labels']['test'])
                     for record in runs.values()])


def sign_flips(votes):
    "Share of all ways to flip the signs of whole numbers whose sum is as far from 0 as theirs"
    ways = Counter({0: 1})
    for vote in filter(None, votes):
        flipped = Counter()
        for total, count in ways.items():
            flipped[total + vote] += count
            flipped[total - vote] += count
        ways = flipped
    far = [count for total, count in ways.items() if abs(total) >= abs(sum(votes))]
    return sum(far)/sum(ways.values())


def test_sign_flips():
    assert sign_flips([1]*9 + [-1]*3 + [0]) == pytest.approx(binomtest(9, 12).pvalue)
    assert sign_flips([2, 1, -1]) == 6/8 and sign_flips([0]) == 1
    a, b = np.random.default_rng(0).integers(0, 2, (2, 3, 50))
    assert paired(a, b) == pytest.approx(sign_flips((b - a).sum(0).tolist()))


@pytest.mark.parametrize('name,budget', BUDGETS)
def test_every_number_a_second_way(name, budget, published):
    "Counts of equal characters, statsmodels' intervals and corrections, all ways to flip signs"
    definition = load_table(find_table(name), budget=budget)
    found = table(definition, published)
    rows = {row['name']: of_row(row['spec']) if row['spec'] else {} for row in definition['rows']}
    raw = {}
    for row in definition['rows']:
        runs, line = rows[row['name']], found.loc[row['name']]
        assert line.seeds == len(runs)
        if not runs:
            assert math.isnan(line.ours)
            continue
        right = right_answers(runs)
        low, high = proportion_confint(round(right.sum()/len(runs)), right.shape[1],
                                       method='wilson')
        expected = 100*np.array([right.mean(), low, high])
        assert np.allclose([line.ours, line.low, line.high], expected, atol=1e-3)
        spread = pd.Series(100*right.mean(1)).std()
        assert line['std'] == pytest.approx(spread, nan_ok=True)
        base = rows.get(row.get('baseline'), {})
        common = [seed for seed in runs if seed in base]
        if common:
            after, before = (right_answers({seed: of[seed] for seed in common})
                             for of in (runs, base))
            votes = (after.sum(0) - before.sum(0)).tolist()
            assert line.difference == pytest.approx(100*sum(votes)/after.size)
            raw[row['name']] = sign_flips(votes)
    if raw:
        corrected = multipletests(list(raw.values()), method='holm')[1]
        assert np.allclose(found.p[list(raw)], corrected)
    assert found.p.notna().sum() == len(raw)


def test_published_records_are_whole_and_summarised(published):
    assert [record['id'] for record in published] == list(PUBLISHED) and len(published) >= 11
    for record in published:
        for on, row in summary(record).iterrows():
            stored = record['metrics'][on]
            assert row.top1 == stored['correct']/stored['n'] and row.n == stored['n']
            for name in ('mean_class_accuracy', 'macro_f1'):
                assert row[name] == pytest.approx(stored[name]['value'])
            assert row.ece == stored['ece'] and row.nll == stored['nll']


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_ids_survive(name):
    """A record's id follows from its canonical form, and that from its spec by today's code

    But for the digits that stand for a weight file's content, which no file is needed for.
    """
    record, spec = PUBLISHED[name], spec_from(PUBLISHED[name]['spec'])
    known = record['canonical']
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    assert record['id'] == name and name.rpartition('-')[2] == digest[:8]
    files = {field: known[field] for field in spec.weight_files()}
    assert CANONICAL[name] | files == known
    assert all(re.fullmatch('[0-9a-f]{16}', text) for text in files.values())


def test_ids_by_the_weight_files(weights, monkeypatch):
    "Where they are at hand, today's id is the published one; an earlier run's are not"
    monkeypatch.setenv('FER_NR_WEIGHTS', str(weights))
    specs = {name: spec_from(record['spec']) for name, record in PUBLISHED.items()}
    ids = {name: spec.id for name, spec in specs.items() if not spec.weights.startswith('ferplus-')}
    assert len(ids) > 20 and all(found == name for name, found in ids.items())


def test_every_published_run_is_in_a_table(published):
    shown = set()
    for name, budget in BUDGETS:
        runs = runs_of(load_table(find_table(name), budget=budget), published)
        shown |= {record['id'] for seeds in runs.values() for record in seeds.values()}
    assert shown == set(PUBLISHED)


def changed(record, name, value):
    "A record with `value` in the field `name`, inner fields after a dot; ... takes it away"
    first, _, rest = name.partition('.')
    inner = changed(record[first], rest, value) if rest else value
    fields = record | {first: inner}
    return {field: kept for field, kept in fields.items() if kept is not Ellipsis}


GOOD = next(iter(PUBLISHED.values()))
ONE_SHORT = GOOD['predictions']['test'][:-1]
FIELDS = ('id', 'spec', 'data', 'device', 'history', 'metrics', 'predictions', 'labels', 'seconds',
          'images_per_s', 'parameters')
ODD = [(name, value) for name in FIELDS for value in (None, ..., [], 'x', -1)
       if not (name in ('id', 'device') and value == 'x')]
ODD += [
    ('predictions.test', '1'),
    ('predictions.test', ''),
    ('predictions.test', ONE_SHORT),
    ('predictions.test', ONE_SHORT + '9'),
    ('predictions.test', ONE_SHORT + 'é'),
    ('predictions.test', 7),
    ('predictions.valid', ...),
    ('labels.test', ...),
    ('labels.test', None),
    ('data.vocab', ['a']),
    ('data.images', []),
    ('data.images', {'test': 1}),
    ('history', [{}]),
    ('history', [3]),
    ('seconds', True),
    ('images_per_s', 0),
    ('images_per_s', math.nan),
    ('seconds', math.inf),
    ('metrics.test', 3),
    ('metrics.test.correct', 1),
    ('metrics.test.ece', math.nan),
    ('spec.loss', 'fpdl'),
    ('spec.later', 1),
    ('spec.epochs', 0),
    ('spec.arch_args', []),
]
ODD_IDS = [f'{name}={str(value)[-12:]}' for name, value in ODD]


@pytest.mark.parametrize('name,value', ODD, ids=ODD_IDS)
def test_odd_records_are_named_and_left_out(name, value, tmp_path):
    (tmp_path/'odd.json').write_text(json.dumps(changed(GOOD, name, value)))
    (tmp_path/'good.json').write_text(json.dumps(GOOD))
    with pytest.warns(UserWarning, match=r'left out: .*odd\.json') as said:
        assert [record['id'] for record in records(tmp_path)] == [GOOD['id']]
    assert len(said) == 1 and '\n' not in str(said[0].message)


NO_RECORDS = ['', '{', '[]', '"x"', '3', 'null', '{"id": NaN}', '['*3000, '{"id": "x"']


@pytest.mark.parametrize('text', NO_RECORDS)
def test_files_that_are_no_record(text, tmp_path):
    (tmp_path/'x.json').write_text(text)
    with pytest.raises(ValueError, match=r'x\.json') as said:
        read_record(tmp_path/'x.json')
    assert '\n' not in str(said.value)


BAD_TABLES = {  # what is wrong: (the file, what is said after the file's name)
    'empty': ('', 'expected a mapping'),
    'a list': ('- a', 'expected a mapping'),
    'no rows': ('title: T', 'rows is missing or empty'),
    'rows that are none': ('rows: 3', "rows is '3': expected a list"),
    'empty base': ('base:\nrows: [{name: a, spec: {}}]', 'base'),
    'unknown base': ('base: vit_tii\nrows: [{name: a, spec: {}}]', "did you mean 'vit_ti'"),
    'base is a number': ('base: 3\nrows: [{name: a, spec: {}}]', 'base'),
    'a row that is text': ('rows: [a]', "row 1: 'a': expected a mapping with name"),
    'a row without a name': ('rows: [{spec: {}}]', 'row 1: it has no name'),
    'an empty name': ('rows: [{name: "", spec: {}}]', 'row 1.*it has no name'),
    'a name that is a list': ('rows: [{name: [a], spec: {}}]', "name is .* expected text"),
    'neither spec nor paper': ('rows: [{name: a}]', r'row 1 \(a\): it lacks `spec`'),
    'spec is text': ('rows: [{name: a, spec: x}]', "spec is 'x': expected a mapping"),
    'an empty spec': ('rows: [{name: a, spec: }]', 'spec is .* expected a mapping'),
    'paper is text': ('rows: [{name: a, paper: high}]', "paper is 'high': expected a percentage"),
    'paper is no percentage': ('rows: [{name: a, paper: 889}]', 'expected a percentage, 0 to 100'),
    'paper is NaN': ('rows: [{name: a, paper: .nan}]', 'expected a percentage'),
    'an entry misspelt': ('rows: [{name: a, specs: {}}]', "did you mean 'spec'"),
    'a key of the table misspelt': ('titel: T\nrows: [{name: a, paper: 1}]',
                                    "did you mean 'title'"),
    'a field misspelt': ('rows: [{name: a, spec: {epoch: 3}}]',
                         "row 'a': parameter 'epoch' is unknown.*did you mean 'epochs'"),
    'a value out of range': ('rows: [{name: a, spec: {epochs: 0}}]', "row 'a': epochs"),
    'a key twice': ('rows:\n- {name: a, spec: {lr: 1, lr: 2}}', 'lr is there twice'),
    'two rows of a name': ('rows: [{name: a, paper: 1}, {name: a, paper: 2}]',
                           r'row 2 \(a\): a row above has this name'),
    'a baseline that is none': ('rows: [{name: a, spec: {}, baseline: b}]',
                                "row 'a': baseline: row 'b' is unknown"),
    'a baseline of itself': ('rows: [{name: a, spec: {}, baseline: a}]', 'the row itself'),
    'a grid that is no list': ('rows: [{name: a, spec: {}, grid: {lr: 3}}]',
                               'grid of lr is .* expected a list of values'),
    'a grid of a number without a run': ('rows: [{name: a, paper: 1, grid: {lr: [1, 2]}}]',
                                         r'row 1 \(a\): it has a grid and no `spec`'),
    'a grid of what the loss does not look at': (
        'rows: [{name: a, spec: {loss: ce}, grid: {alpha: [.2, .5]}}]',
        "row 'a, alpha 0.5' is the same run as 'a, alpha 0.2'"),
    'a grid of seeds, which each row has': (
        'rows: [{name: a, spec: {}, grid: {seed: [0, 1]}}]', "'a, seed 1' is the same run"),
    'a baseline that is the same run': (
        'rows: [{name: a, spec: {}}, {name: b, baseline: a, spec: {gamma: 5}}]',
        "row 'b' is the same run as 'a': what they differ in is not looked at"),
    'a grid of a million': ('rows: [{name: a, spec: {}, grid: {seed: &s [1,2,3,4,5,6,7,8,9,10], '
                            'epochs: *s, bs: *s, gamma: *s, limit: *s, up_size: *s}}]',
                            'more than 2,000 combinations'),
    'a million rows': ('rows:\n' + '- {name: a, paper: 1}\n'*1_000_000,
                       'characters: expected at most'),
    'notes that are no texts': ('notes: [[a]]\nrows: [{name: a, paper: 1}]',
                                'notes: expected a list of texts'),
    'not YAML': ('rows: [', 'not YAML'),
}


@pytest.mark.parametrize('what', BAD_TABLES)
def test_bad_tables_are_one_line(what, tmp_path):
    "File, row, what was expected; no traceback, no hang"
    text, expected = BAD_TABLES[what]
    (tmp_path/'t.yaml').write_text(text)
    with pytest.raises(ValueError, match=rf't\.yaml.*{expected}') as said:
        load_table(tmp_path/'t.yaml')
    assert '\n' not in str(said.value)


def test_a_change_that_makes_two_rows_one():
    "The controls vary the rate, so no rate can be given to all of them"
    with pytest.raises(ValueError, match="lr 0.0003' is the same run as 'vanilla'.*in every row"):
        load_table(find_table('controls'), dict(lr=1e-3))
    load_table(find_table('controls'), dict(img_size=96))


@pytest.mark.parametrize('name', TABLES)
def test_tables_of_the_workbook(name):
    "Rows of ViT-Ti differ in nothing but what their table is about"
    rows = [row for row in load_table(find_table(name))['rows']
            if row['spec'] and row['spec'].arch.startswith('vit_tiny')]
    meant = dict(table4={'protocol'}, controls={'protocol', 'lr', 'resizer_lr'},
                 home={'resizer_lr'}, gpu={'resizer_lr'}, three_epoch_runs={'lr', 'resizer_lr'},
                 best={'ema', 'epochs', 'lr', 'resizer_lr', 'weights'})
    lines = differences(dict(rows=rows), {row['name']: True for row in rows})
    said = {line.split(':')[0].removeprefix('Rows differ in ') for line in lines}
    if name in meant or name.startswith(('table', 'label', 'twenty')):
        assert rows and said == meant.get(name, set())


def test_numbers_of_the_poster():
    "Typed correctly, they are all accuracies of 3,191 images"
    rows = [row for name in ('table1', 'table2', 'table3')
            for row in load_table(find_table(name))['rows']]
    numbers = {row['paper'] for row in rows if 'paper' in row}
    assert len(numbers) == 15 and numbers <= {round(100*right/3191, 2) for right in range(3192)}


def test_the_programme(weights, monkeypatch):
    """One budget with the recipe's own values; tables share their runs

    The baseline and the proposal come first, and Table 4's part has the same epochs and images.
    """
    monkeypatch.setenv('FER_NR_WEIGHTS', str(weights))
    specs = specs_of(read_tables(['table2', 'table3', 'controls'], rows=''))
    tiny = [spec for spec in specs if spec.arch.startswith('vit_tiny')]
    budget = spec_from(read_params([str(params_folder()/f'{name}.yaml')
                                   for name in ('vit_ti', 'six_epochs')]))
    budgets = {(spec.epochs, spec.img_size, spec.drop_path, spec.bs) for spec in tiny}
    assert budgets == {(budget.epochs, budget.img_size, budget.drop_path, budget.bs)}
    methods = specs_of(read_tables(['comparators', 'comparators_noise'], rows=''))
    assert {spec.epochs for spec in methods} == {budget.epochs}
    recipes = [spec.recipe_of() for spec in tiny]
    values = {(recipe.layer_decay, recipe.ema, recipe.augment) for recipe in recipes}
    assert values == {(.8, .998, 'modern')}
    assert len({spec.id for spec in specs}) == len(specs)
    both = specs_of(read_tables(['table2', 'table3'], rows='ViT-Ti'), seeds=2)
    assert len(both) == 2*(5 + 6 - 2) and [spec.seed for spec in both] == [0]*9 + [1]*9
    larger = specs_of(read_tables(['table2', 'img_size=224', 'up_size=384'], rows='ViT-Ti'))
    assert [spec.img_size for spec in larger] == [224]*5


def toy(seed, loss, answers, labels='0123', **kwargs):
    "A record of a few images of four classes with these answers"
    spec = RunSpec(data='synthetic', loss=loss, seed=seed)
    cost = dict(seconds=60., images_per_s=1.)
    data = dict(name='synthetic', vocab=['a', 'b', 'c', 'd'], images=dict(test=len(labels)))
    record = dict(id=spec.id, spec=asdict(spec), parameters=1, device='toy', data=data, **cost,
                  history=[dict(epoch=1) | cost], metrics={}, predictions=dict(test=answers),
                  labels=dict(test=labels))
    return Record(record | kwargs)


def test_three_formats_say_the_same():
    "Every cell of a table in text, Markdown and HTML, whatever its names contain"
    name = 'a | <b>b</b> & "c"'
    focal = RunSpec(data='synthetic', loss='focal')
    rows = [dict(name=name, spec=RunSpec(data='synthetic')),
            dict(name='d', baseline=name, spec=focal)]
    definition = dict(title=name, notes=[name], rows=rows)
    toys = [toy(0, 'ce', '0000'), toy(0, 'focal', '0123')]
    text, markdown, page = (print_table(definition, toys, form) for form in ('text', 'md', 'html'))
    assert '<b>' not in page and html.unescape(page).count(name) == 3  # title, row, note
    assert '| a \\| &lt;b>b&lt;/b> & "c" |' in markdown and '<b>' not in markdown
    cells = [html.unescape(cell) for cell in re.findall('<td>(.*?)</td>', page)]
    assert len(cells) == 12
    assert all(cell in text and cell in markdown for cell in cells if cell != name)


def test_verdicts():
    row = pd.Series(dict(difference=-1.5, p=.0004), name='x')
    assert verdict(row, 'y') == '*x* is **1.50 points below** y (p < .001).'
    assert 'which chance can explain' in verdict(row.replace(.0004, .05), 'y')
    assert 'above' in verdict(-row*[1, -1], 'y')
    assert verdict(row.replace(.0004, math.nan)) == ''


def test_params_are_parameters_of_runs():
    "Each file beside the folder of tables is what `fer_nr_run` reads"
    names = {file.stem for file in params_folder().glob('*.yaml')}
    assert {'demo', 'vit_ti', 'twelve_epochs'} <= names
    assert spec_of(dict(spec=dict(seed=1))) == RunSpec()

@pytest.fixture(scope='module')
def three_losses(tmp_path_factory):
    "A folder with a table of three rows and a record of each, on twelve images"
    folder = tmp_path_factory.mktemp('three')
    rows = [dict(name='CE', spec={}),
            dict(name='focal', baseline='CE', spec=dict(loss='focal')),
            dict(name='votes', baseline='CE', spec=dict(loss='votes'))]
    base = dict(data='synthetic')
    (folder/'own.yaml').write_text(json.dumps(dict(title='Own', base=base, rows=rows)))
    labels = '012301230123'
    for loss, answers in dict(ce='0'*12, focal='0123'*2 + '0'*4, votes=labels).items():
        record = toy(0, loss, answers, labels)
        (folder/f'{loss}.json').write_text(json.dumps(record))
    return folder


def printed(capsys, *tables, **options):
    "What the command prints to both streams"
    fer_nr_tables([str(table) for table in tables], format='md', **options)
    return capsys.readouterr()


def test_rows_are_compared_as_in_the_whole_table(three_losses, capsys):
    "Of 12 images 3, 9 and 12 are right: p is 2/2⁶ and 2/2⁹, twice the smaller after Holm"
    own = three_losses/'own.yaml'
    whole, _ = printed(capsys, own, results=three_losses, runs=three_losses)
    both, said = printed(capsys, own, 'table1', rows='votes', results=three_losses,
                         runs=three_losses)
    line = '| votes | 100.00 | 75.75 – 100.00 | 1 × 12 | +75.00 | 0.0078 |'
    assert line in whole and '| +50.00 | 0.031 |' in whole and 'of 3 rows' not in whole
    assert line in both and '| focal' not in both and '| CE' not in both
    assert '1 of 3 rows; baselines' in both and 'Table 1' not in both and not said


def test_two_records_of_a_row_and_seed():
    "Weight files of one name with other content: the first record counts, the other is named"
    row = dict(name='CE', spec=RunSpec(data='synthetic'))
    first, other = toy(0, 'ce', '0123'), Record(toy(0, 'ce', '0000') | dict(id='other'))
    with pytest.warns(UserWarning, match=f"left out: other is .* row and seed as {first['id']}"):
        runs = runs_of(dict(rows=[row]), [first, other, first])
    assert runs['CE'] == {0: first}


TWO_LOSSES = dict(title='T', rows=[
    dict(name='CE', spec=RunSpec(data='synthetic')),
    dict(name='focal', baseline='CE', spec=RunSpec(data='synthetic', loss='focal'))])


@pytest.mark.parametrize('ce,focal,said', [
    ({0: '0123'}, {0: '0123', 1: '0120'}, '  Compared on seed 0 alone: focal.'),
    ({0: '0123', 1: '0120', 2: '0'*4}, {0: '0123', 2: '0'*4},
     '  Compared on seeds 0, 2 alone: focal.'),
    ({0: '0123'}, {1: '0123'}, '  Not compared, no seed on the same images: focal.'),
    ({0: '0123', 1: '0'*8}, {0: '0123', 1: '0'*8}, '  Compared on seed 0 alone: focal.'),
    ({0: '0123', 1: '0120'}, {0: '0123', 1: '0120'}, None),
    ({}, {0: '0123'}, None)])
def test_seeds_that_a_difference_counts_are_said(ce, focal, said):
    "In each case the difference is 0, whatever the means beside it are; 8 images are others than 4"
    toys = [toy(seed, loss, answers, '0123'*(len(answers)//4))
            for loss, runs in (('ce', ce), ('focal', focal)) for seed, answers in runs.items()]
    difference = table(TWO_LOSSES, toys).loc['focal', 'difference']
    assert math.isnan(difference) or difference == 0
    lines = print_table(TWO_LOSSES, toys).splitlines()
    assert [line for line in lines if 'ompared' in line] == ([said] if said else [])


WRONG_PLACES = {  # the option: its command, what is said
    'results=gone': (fer_nr_tables, '--results {}/gone: {}/gone is not there, expected a folder'),
    'runs=gone': (fer_nr_tables, '--runs {}/gone: {}/gone is not there, expected a folder'),
    'results=ce.json': (fer_nr_sweep, '--results {}/ce.json: {}/ce.json is a file, expected a'),
    'runs=ce.json/new': (fer_nr_sweep, '--runs {}/ce.json/new: {}/ce.json is a file, expected a'),
    'data_path=gone': (fer_nr_sweep, '--data_path {}/gone is not there, expected a folder'),
}


@pytest.mark.parametrize('option', WRONG_PLACES)
def test_wrong_folders_are_one_line(option, three_losses, capsys):
    command, expected = WRONG_PLACES[option]
    name, place = option.split('=')
    more = dict(dry_run=True) if command is fer_nr_sweep else {}
    with pytest.raises(SystemExit) as ended:
        command([str(three_losses/'own.yaml')], **{name: str(three_losses/place)}, **more)
    out, said = capsys.readouterr()
    assert ended.value.code == 1 and not out and said.count('\n') == 1
    assert said.startswith('fer_nr: ' + expected.replace('{}', str(three_losses)))


def test_odd_records_are_lines_of_a_command(three_losses, tmp_path, capsys):
    "One line each; a sweep says so as well, and makes no folder in a dry run"
    (tmp_path/'odd.json').write_text('{')
    own = str(three_losses/'own.yaml')
    places = dict(results=str(tmp_path), runs=str(tmp_path/'new'))
    fer_nr_sweep([own], dry_run=True, **places)
    swept = capsys.readouterr().err
    fer_nr_tables([own, own], results=str(tmp_path))
    assert capsys.readouterr().err == swept and swept.count('\n') == 1
    assert swept.startswith(f'fer_nr: left out: {tmp_path}/odd.json is not JSON')
    assert not (tmp_path/'new').exists()


@pytest.mark.parametrize('options,said', [
    (dict(seeds=0), '--seeds 0: expected 1 or more'),
    (dict(seeds=-3), '--seeds -3: expected'),
    (dict(limit=-1), '--limit -1: expected a number of runs, or 0 for all'),
    (dict(budget=-5.), '--budget -5.0: expected minutes'),
    (dict(budget=math.nan), '--budget nan: expected minutes'),
    (dict(rows='Who'), 'no run in these tables')])
def test_sweeps_of_nothing_are_one_line(options, said, tmp_path, capsys):
    rows = [dict(name='CE', spec=dict(data='synthetic')), dict(name="Who's", paper=88.)]
    (tmp_path/'own.yaml').write_text(json.dumps(dict(rows=rows)))
    with pytest.raises(SystemExit) as ended:
        fer_nr_sweep([str(tmp_path/'own.yaml')], runs=str(tmp_path), dry_run=True, **options)
    assert ended.value.code == 1
    out, line = capsys.readouterr()
    assert not out and line.startswith(f'fer_nr: {said}') and line.count('\n') == 1


def test_the_command_in_a_process_of_its_own(three_losses, capsys):
    "A part as HTML like the whole, and one line for a wrong folder; no folder `runs` is needed"
    def ended(*args):
        command = [BIN/'fer_nr_tables', 'own.yaml', *args]
        environment = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
        return subprocess.run(command, cwd=three_losses, env=environment, capture_output=True,
                              text=True)

    shown = ended('--results', '.', '--format', 'html', '--rows', 'votes')
    assert shown.returncode == 0 and not shown.stderr
    starts = dict(text='Own\n\n ', md='### Own\n\n| row', html='<h3>Own</h3>\n')
    for format, start in starts.items():
        fer_nr_tables([str(three_losses/'own.yaml')], results=str(three_losses), format=format)
        whole = capsys.readouterr().out
        assert whole.startswith(start) and whole.count('+75.00') == 1
    cells = re.findall('<td>.*?</td>', shown.stdout)
    assert cells == re.findall('<td>.*?</td>', whole)[-len(cells):] and len(cells) == 6
    wrong = ended('--results', 'reslts')
    assert wrong.returncode == 1 and not wrong.stdout
    assert wrong.stderr == 'fer_nr: --results reslts: reslts is not there, expected a folder\n'
