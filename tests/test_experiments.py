"""Every experiment's notebook runs through papermill with tiny settings, and what it says follows
from the records."""
import json
import os
import re
from collections import Counter
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path

import papermill as pm
import pytest

from fer_nr.files import read_json
from fer_nr.reading import plain_value, read_yaml
from fer_nr.results import records

ROOT = Path(__file__).parent.parent
NBS = ROOT/'nbs/experiments'
TINY = dict(forensics=dict(draws=20), selection_lab=dict(limit=300, epochs=2, orders=30),
            figure3=dict(limit=300, epochs=1), robustness=dict(limit=300, epochs=1))


def execute(name, tmp_path, **params):
    "Markdown, tables and texts that a notebook shows"
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    notebook = pm.execute_notebook(NBS/f'{name}.ipynb', tmp_path/f'{name}.ipynb', params,
                                   kernel_name='python3', cwd=NBS, progress_bar=False)
    shown = []
    for cell in notebook.cells:
        for output in cell.outputs if cell.cell_type == 'code' else []:
            data = output.get('data', {})
            rich = data.get('text/markdown', '') or data.get('text/plain', '')
            shown.append(''.join(rich or output.get('text', '')))
    return '\n'.join(shown)


def execute_as_one_line(name, tmp_path, **params):
    "The same with each run of white space as one space"
    return ' '.join(execute(name, tmp_path, **params).split())


@pytest.mark.parametrize('name', TINY)
def test_runs_with_tiny_settings(name, tmp_path):
    shown = execute(name, tmp_path, **TINY[name])
    assert 'Traceback' not in shown
    assert 'nan' not in re.sub(r'[a-z]*nan[a-z]+|[a-z]+nan', '', shown)


def test_peers_are_compared_from_the_published_numbers(tmp_path):
    "The page shows what the tool measured"
    rows = read_json(ROOT/'results'/'recognize'/'peers.json', 'measured peers')['rows']
    shown = execute('peers', tmp_path)
    for row in rows.values():
        assert f"{100*row['all_eight']['accuracy']:.1f}" in shown


def test_every_parameter_is_explained():
    for name in (*TINY, 'tables', 'table4', 'ablation'):
        parameters = pm.inspect_notebook(NBS/f'{name}.ipynb')
        assert parameters and all(each['help'] for each in parameters.values()), name


def right_until(labels, count, wrong):
    "Answers of which the first `count` are the labels; `wrong` makes a wrong answer of a label"
    return labels[:count] + ''.join(wrong(label) for label in labels[count:])


def one_for_zero(label):
    "A wrong answer: 1 for 0, 0 for all else"
    return '1' if label == '0' else '0'


def zero_for_one(label):
    "A wrong answer of two classes: 0 for 1, 1 for 0"
    return '0' if label == '1' else '1'


def is_plain(record):
    "Whether a run had the cross-entropy, bilinear enlargement and a rate of 1e-4"
    spec = record['spec']
    return spec['loss'] == 'ce' and spec['up'] == 'bilinear' and spec['lr'] == 1e-4


def copies(tmp_path, *changes):
    "Made-up records: the real ones with some predictions and fields changed"
    folder = tmp_path/'results'
    folder.mkdir()
    real = next(record for record in records(ROOT/'results') if is_plain(record))
    labels = real['labels']['test']
    for i, (spec, right) in enumerate(changes):
        answers = right_until(labels, round(right*len(labels)), one_for_zero)
        record = real | dict(id=f'made-up-{i}', spec=real['spec'] | spec, metrics={},
                             predictions=real['predictions'] | dict(test=answers))
        (folder/f'{i}.json').write_text(json.dumps(record))
    return str(folder)


SR = dict(up='sr', up_size=192, down='ltr', loss='fpdls')


def test_ablation_grows_with_its_records(tmp_path):
    "Headings with scores computed here, missing steps named, a loss called a loss"
    one = execute('ablation', tmp_path, results=copies(tmp_path, ({}, .8)))
    assert re.search(r'### Vanilla.*: 80\.01\b', one)
    assert one.count('###') == 1 and 'have not both been run' in one
    (tmp_path/'b').mkdir()
    changes = [({}, .8), (dict(seed=1), .9), (dict(loss='pdls'), .85), (SR, .7),
               (dict(up='bicubic'), .8)]
    more = execute('ablation', tmp_path, results=copies(tmp_path/'b', *changes))
    headings = re.findall(r'### (.*)', more)
    scores = [re.sub(r'.*: (\d)', r'\1', heading) for heading in headings]
    # 2510, 2823; 2666; 2196; 2510 of 3137
    assert scores == ['85.00', '84.99 (+4.97)', '70.00 (−14.98)', '80.01 (+0.00)'], headings
    flat = ' '.join(more.split())
    assert '**10.01 points below**' in flat
    assert '3 changes at once' in flat and 'seeds: 2' in flat
    none = execute('ablation', tmp_path, results=str(tmp_path/'nothing'))
    assert 'nothing can be said yet' in none and 'Not run yet' in none and '###' not in none


def test_tables_put_contradictions_first(tmp_path):
    shown = execute('tables', tmp_path, results=copies(tmp_path, ({}, .8), (SR, .7)))
    heading = shown.index('Contradicts the paper')
    said = shown.index('*ViT-Ti, proposed* is **10.01 points below** *ViT-Ti, vanilla*')
    assert heading < said < shown.index('| ViT-Ti, vanilla |')
    line = r'\| ViT-Ti, proposed \|  \| 70\.00 \| .* \| 1 × 3,137 \| −10\.01 \|'
    assert re.search(line, shown)
    assert '| ViT, vanilla | 88.84 |  |' in shown
    (tmp_path/'b').mkdir()
    agree = execute('tables', tmp_path, results=copies(tmp_path/'b', ({}, .7), (SR, .8)))
    assert 'Agrees with the paper' in agree and 'Contradicts' not in agree


def test_selection_lab_reads_a_published_trace(tmp_path):
    "The first trace of the folder, 130 images: two batches and two images more"
    labels = '01234567'*16 + '01'

    def epoch(number, **right):
        "What an epoch answered: on each kind of images, so many right"
        answers = {kind: right_until(labels, count, one_for_zero) for kind, count in right.items()}
        return dict(epoch=number) | answers

    trace = dict(
        id='x', spec=dict(arch='a', seed=0, recipe='authors'),
        data=dict(name='ferplus', images=dict(train=8000)), device='d', commit='c'*40,
        labels=dict(valid=labels, test=labels),
        epochs=[epoch(1, valid=65, test=91, augmented=65, zoomed=78),
                epoch(2, valid=104, test=78, augmented=104, zoomed=104)])
    (tmp_path/'t.json').write_text(json.dumps(trace))
    shown = execute_as_one_line('selection_lab', tmp_path, results=str(tmp_path), orders=300)
    assert 'a on 8,000 faces of FERPlus' in shown
    assert 'the clean one gives **60.00**' in shown
    assert '+20.00 by augmented test images' in shown
    assert '+10.00 by taking the best epoch' in shown


def test_robustness_reads_what_was_measured(tmp_path):
    labels = '01'*100

    def kind(right):
        "A kind of images of which so many are right"
        return dict(n=200, correct=right, top1=dict(value=right/200, low=0, high=1),
                    predictions=right_until(labels, right, zero_for_one))

    for i, (up, small) in enumerate((('bilinear', 100), ('sr', 180))):
        spec = dict(arch='vit', up=up, down='none', loss='ce', seed=0)
        kinds = {'clean': kind(190), '16 px': kind(small), 'eyes': kind(150)}
        measured = dict(id=f'r{i}', spec=spec, data=dict(name='ferplus'), device='d',
                        labels=labels, kinds=kinds)
        (tmp_path/f'{i}.json').write_text(json.dumps(measured))
    shown = execute_as_one_line('robustness', tmp_path, results=str(tmp_path))
    assert 'loses 45.00 points' in shown and 'sr, ce, seed 0* 5.00' in shown
    assert '1 below .05' in shown and 'Drawn faces' not in shown


PRINTED = NBS/'params/printed/table4.yaml'


def existing(n, how):
    "All percentages with two decimals that whole numbers of n images give, by trying each"
    return {(Decimal(100*k)/n).quantize(Decimal('.01'), how) for k in range(n + 1)}


def test_printed_numbers_and_the_sets_that_allow_them():
    "What table 4's page says of 89.75, 88.55, 89.22, 89.35, 88.88 and 88.57"
    printed = plain_value(read_yaml(PRINTED))
    rounded = {size['n']: existing(size['n'], ROUND_HALF_UP) for size in printed['sizes']}
    cut = {size['n']: existing(size['n'], ROUND_DOWN) for size in printed['sizes']}

    def fit(value):
        "Sizes of FERPlus's sets of which the value is a rounded share"
        return {n for n in rounded if n != 3068 and Decimal(value) in rounded[n]}

    def cut_fit(value):
        "Those of which it is a share only if cut off"
        return {n for n in cut if n != 3068 and Decimal(value) in cut[n]} - fit(value)

    assert fit('89.75') == {3160, 3191}
    assert fit('88.55') == {3153, 3546} and 3137 in cut_fit('88.55')
    assert fit('89.22') == {3153, 3191} and cut_fit('89.22') == {3137, 3546}
    assert fit('88.88') == set() and cut_fit('88.88') == {3546}
    assert fit('89.50') == {3153, 3191}
    assert all(fit(value) == {3137, 3191} for value in ('88.81', '89.16', '89.35'))
    values = {one['value'] for method in printed['methods'] for one in method['own']
              if one['data'] == 'RAF-DB'}
    values |= {method['printed']['RAF-DB'] for method in printed['methods']}
    possible = rounded[3068] | cut[3068]
    odd = {value for value in values if Decimal(f'{value:.2f}') not in possible}
    assert odd == {88.57}


def toy_tables(folder, spec):
    "Parameters of the page with two small tables: a control with methods, and wrong labels"
    (folder/'printed').mkdir(parents=True)
    (folder/'tables').mkdir()
    (folder/'printed/table4.yaml').write_text(PRINTED.read_text())
    changes = dict(frozen=dict(method='probe'), SCN=dict(method='scn'), SE=dict(method='vit_se'),
                   votes=dict(loss='votes'), MVT=dict(method='mvt'))
    rows = [dict(name='control', spec={})]
    for name, change in changes.items():
        rows.append(dict(name=name, baseline='control', spec=change))
    noise = dict(label_noise=[0., .3])
    noisy = [dict(name='CE', spec={}, grid=noise),
             dict(name='SCN', baseline='CE', spec=dict(method='scn'), grid=noise)]
    for name, rows_of_table in dict(toy=rows, toy_noise=noisy).items():
        table = dict(title=name, base=spec, rows=rows_of_table)
        (folder/f'tables/{name}.yaml').write_text(json.dumps(table))


def halve_speed(file):
    "Half as many images a second in each epoch of a record; returns the record as it was"
    record = json.loads(file.read_text())
    history = [epoch | dict(images_per_s=epoch['images_per_s']/2) for epoch in record['history']]
    file.write_text(json.dumps(record | dict(history=history)))
    return record


def test_table4_says_what_follows(tmp_path):
    """Differences, the trunk's share, times and the grid as computed by hand

    A missing table is passed over.
    """
    rows = [({}, .7), (dict(method='probe'), .5), (dict(method='scn'), .8),
            (dict(method='vit_se'), .6), (dict(loss='votes'), .7), (dict(label_noise=.3), .6),
            (dict(method='scn', label_noise=.3), .6)]
    folder = Path(copies(tmp_path, *rows))
    labels = halve_speed(folder/'2.json')['labels']['test']
    spec = json.loads((folder/'0.json').read_text())['spec']
    del spec['seed']
    toy_tables(tmp_path/'params', spec)
    asked = dict(params=str(tmp_path/'params'), names=['toy', 'absent', 'toy_noise'])
    shown = execute_as_one_line('table4', tmp_path, results=str(folder), **asked)
    # 2196, 1568, 2510, 1882, 2196 of 3137 are right
    assert ('more than chance: *SCN* +10.01 (on *control*); '
            'less than the trunk alone: *SE* −10.01 (on *control*); '
            'undecided, chance can explain it: *votes* +0.00 (on *control*). Seeds: 1.') in shown
    most = Counter(labels).most_common(1)[0][1]
    fine, probe = 100*(2196 - most)/3137, 100*(1568 - most)/3137
    assert f'*control* is {fine:.2f} points above' in shown
    assert (f'has {100*probe/fine:.0f} % of them ({probe:.2f}); '
            'the largest difference of any method is 10.01') in shown
    assert '*SCN* 2.0 (1.0)' in shown
    assert '| MVT | control | | | | | | | not run yet |' in shown
    assert '| CE | 70.00 | 59.99 | | SCN | 80.01 (+10.01*) | 59.99 (+0.00) |' in shown
    none = execute_as_one_line('table4', tmp_path, results=str(tmp_path/'nothing'), **asked)
    assert none.count("can't be said yet") == 2
    assert ('counted in operations forward, so many times their control: *MVT* 1.5; '
            'the other 3') in none
    assert '**88.88** of *MVT*' in none and '**88.57** of *the paper' in none
    assert none.count('is no rounded share') == 2
