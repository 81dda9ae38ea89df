"Every experiment's notebook runs through papermill with tiny settings, and what it says follows from the records."
import json, os, re
from collections import Counter
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path

import papermill as pm, pytest

from fer_nr.reading import plain_value, read_yaml
from fer_nr.results import records

ROOT = Path(__file__).parent.parent
NBS = ROOT/'nbs/experiments'
TINY = dict(forensics=dict(draws=20), selection_lab=dict(limit=300, epochs=2, orders=30), figure3=dict(limit=300, epochs=1), robustness=dict(limit=300, epochs=1))

def execute(name, tmp_path, **params):
    "Markdown and texts that a notebook shows"
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    nb = pm.execute_notebook(NBS/f'{name}.ipynb', tmp_path/f'{name}.ipynb', params, kernel_name='python3', cwd=NBS, progress_bar=False)
    outs = [o for c in nb.cells if c.cell_type=='code' for o in c.outputs]
    return '\n'.join(''.join(o.get('data', {}).get('text/markdown', '') or o.get('text', '')) for o in outs)

@pytest.mark.parametrize('name', TINY)
def test_runs_with_tiny_settings(name, tmp_path):
    shown = execute(name, tmp_path, **TINY[name])
    assert 'Traceback' not in shown and 'nan' not in re.sub(r'[a-z]*nan[a-z]+|[a-z]+nan', '', shown)

def test_every_parameter_is_explained():
    for name in (*TINY, 'tables', 'table4', 'ablation'):
        ps = pm.inspect_notebook(NBS/f'{name}.ipynb')
        assert ps and all(p['help'] for p in ps.values()), name

def copies(tmp_path, *changes):
    "Made-up records: the real ones with some predictions and fields changed"
    d = tmp_path/'results'; d.mkdir()
    real = next(r for r in records(ROOT/'results') if r['spec']['loss']=='ce' and r['spec']['up']=='bilinear' and r['spec']['lr']==1e-4)
    for i,(spec,right) in enumerate(changes):
        y = real['labels']['test']; k = round(right*len(y))
        r = real|dict(id=f'made-up-{i}', spec=real['spec']|spec, metrics={}, predictions=real['predictions']|dict(test=y[:k]+''.join('1' if c=='0' else '0' for c in y[k:])))
        (d/f'{i}.json').write_text(json.dumps(r))
    return str(d)

SR = dict(up='sr', up_size=192, down='ltr', loss='fpdls')

def test_ablation_grows_with_its_records(tmp_path):
    "Headings with scores computed here, missing steps named, a loss called a loss"
    one = execute('ablation', tmp_path, results=copies(tmp_path, ({}, .8)))
    assert re.search(r'### Vanilla.*: 80\.01\b', one) and one.count('###')==1 and 'have not both been run' in one
    (tmp_path/'b').mkdir()
    more = execute('ablation', tmp_path, results=copies(tmp_path/'b', ({}, .8), (dict(seed=1), .9), (dict(loss='pdls'), .85), (SR, .7), (dict(up='bicubic'), .8)))
    heads = re.findall(r'### (.*)', more)
    assert [re.sub(r'.*: (\d)', r'\1', h) for h in heads]==['85.00', '84.99 (+4.97)', '70.00 (−14.98)', '80.01 (+0.00)'], heads # 2510, 2823; 2666; 2196; 2510 of 3137
    flat = ' '.join(more.split())
    assert '**10.01 points below**' in flat and '3 changes at once' in flat and 'seeds: 2' in flat
    none = execute('ablation', tmp_path, results=str(tmp_path/'nothing'))
    assert 'nothing can be said yet' in none and 'Not run yet' in none and '###' not in none

def test_tables_put_contradictions_first(tmp_path):
    shown = execute('tables', tmp_path, results=copies(tmp_path, ({}, .8), (SR, .7)))
    assert shown.index('Contradicts the paper')<shown.index('*ViT-Ti, proposed* is **10.01 points below** *ViT-Ti, vanilla*')<shown.index('| ViT-Ti, vanilla |')
    assert re.search(r'\| ViT-Ti, proposed \|  \| 70\.00 \| .* \| 1 × 3,137 \| −10\.01 \|', shown) and '| ViT, vanilla | 88.84 |  |' in shown
    (tmp_path/'b').mkdir()
    agree = execute('tables', tmp_path, results=copies(tmp_path/'b', ({}, .7), (SR, .8)))
    assert 'Agrees with the paper' in agree and 'Contradicts' not in agree

def test_selection_lab_reads_a_published_trace(tmp_path):
    "The first trace of the folder, 130 images: two batches and two images more"
    y = '01234567'*16+'01'
    e = lambda k: y[:k]+''.join('1' if c=='0' else '0' for c in y[k:])
    t = dict(id='x', spec=dict(arch='a', seed=0, recipe='authors'), data=dict(name='ferplus', images=dict(train=8000)), device='d', commit='c'*40, labels=dict(valid=y, test=y),
        epochs=[dict(epoch=1, valid=e(65), test=e(91), augmented=e(65), zoomed=e(78)), dict(epoch=2, valid=e(104), test=e(78), augmented=e(104), zoomed=e(104))])
    (tmp_path/'t.json').write_text(json.dumps(t))
    shown = ' '.join(execute('selection_lab', tmp_path, results=str(tmp_path), orders=300).split())
    assert 'a on 8,000 faces of FERPlus' in shown and 'the clean one gives **60.00**' in shown and '+20.00 by augmented test images' in shown and '+10.00 by taking the best epoch' in shown

def test_robustness_reads_what_was_measured(tmp_path):
    y = '01'*100; e = lambda k: y[:k]+''.join('0' if c=='1' else '1' for c in y[k:])
    def kind(k): return dict(n=200, correct=k, top1=dict(value=k/200, low=0, high=1), predictions=e(k))
    for i,(up,small) in enumerate((('bilinear', 100), ('sr', 180))):
        d = dict(id=f'r{i}', spec=dict(arch='vit', up=up, down='none', loss='ce', seed=0), data=dict(name='ferplus'), device='d', labels=y, kinds={'clean':kind(190), '16 px':kind(small), 'eyes':kind(150)})
        (tmp_path/f'{i}.json').write_text(json.dumps(d))
    shown = ' '.join(execute('robustness', tmp_path, results=str(tmp_path)).split())
    assert 'loses 45.00 points' in shown and 'sr, ce, seed 0* 5.00' in shown and '1 below .05' in shown and 'Drawn faces' not in shown

PRINTED = NBS/'params/printed/table4.yaml'

def existing(n, how):
    "All percentages with two decimals that whole numbers of n images give, by trying each"
    return {(Decimal(100*k)/n).quantize(Decimal('.01'), how) for k in range(n+1)}

def test_printed_numbers_and_the_sets_that_allow_them():
    "What table 4's page says of 89.75, 88.55, 89.22, 89.35, 88.88 and 88.57"
    printed = plain_value(read_yaml(PRINTED))
    rounded = {size['n']:existing(size['n'], ROUND_HALF_UP) for size in printed['sizes']}
    cut = {size['n']:existing(size['n'], ROUND_DOWN) for size in printed['sizes']}
    def fit(value): return {n for n in rounded if n!=3068 and Decimal(value) in rounded[n]}
    def cut_fit(value): return {n for n in cut if n!=3068 and Decimal(value) in cut[n]}-fit(value)
    assert fit('89.75')=={3160, 3191} and fit('88.55')=={3153, 3546} and 3137 in cut_fit('88.55')
    assert fit('89.22')=={3153, 3191} and cut_fit('89.22')=={3137, 3546}
    assert fit('88.88')==set() and cut_fit('88.88')=={3546} and fit('89.50')=={3153, 3191}
    assert all(fit(value)=={3137, 3191} for value in ('88.81', '89.16', '89.35'))
    values = {one['value'] for m in printed['methods'] for one in m['own'] if one['data']=='RAF-DB'}
    values |= {m['printed']['RAF-DB'] for m in printed['methods']}
    odd = {value for value in values if Decimal(f'{value:.2f}') not in rounded[3068]|cut[3068]}
    assert odd=={88.57}

def toy_tables(folder, spec):
    "Parameters of the page with two small tables: a control with methods, and wrong labels"
    (folder/'printed').mkdir(parents=True); (folder/'tables').mkdir()
    (folder/'printed/table4.yaml').write_text(PRINTED.read_text())
    changes = dict(frozen=dict(method='probe'), SCN=dict(method='scn'), SE=dict(method='vit_se'), votes=dict(loss='votes'), MVT=dict(method='mvt'))
    rows = [dict(name='control', spec={}), *(dict(name=name, baseline='control', spec=change) for name,change in changes.items())]
    noise = dict(label_noise=[0., .3])
    noisy = [dict(name='CE', spec={}, grid=noise), dict(name='SCN', baseline='CE', spec=dict(method='scn'), grid=noise)]
    for name,rows in dict(toy=rows, toy_noise=noisy).items():
        (folder/f'tables/{name}.yaml').write_text(json.dumps(dict(title=name, base=spec, rows=rows)))

def test_table4_says_what_follows(tmp_path):
    "Differences, the trunk's share, times and the grid as computed by hand; a missing table is passed over"
    rows = [({}, .7), (dict(method='probe'), .5), (dict(method='scn'), .8), (dict(method='vit_se'), .6), (dict(loss='votes'), .7), (dict(label_noise=.3), .6), (dict(method='scn', label_noise=.3), .6)]
    folder = Path(copies(tmp_path, *rows))
    slow = json.loads((folder/'2.json').read_text())
    labels = slow['labels']['test']
    (folder/'2.json').write_text(json.dumps(slow|dict(history=[e|dict(images_per_s=e['images_per_s']/2) for e in slow['history']])))
    toy_tables(tmp_path/'params', {k:v for k,v in json.loads((folder/'0.json').read_text())['spec'].items() if k!='seed'})
    asked = dict(params=str(tmp_path/'params'), names=['toy', 'absent', 'toy_noise'])
    shown = ' '.join(execute('table4', tmp_path, results=str(folder), **asked).split())
    # 2196, 1568, 2510, 1882, 2196 of 3137 are right
    assert 'more than chance: *SCN* +10.01 (on *control*); less than the trunk alone: *SE* −10.01 (on *control*); undecided, chance can explain it: *votes* +0.00 (on *control*). Seeds: 1.' in shown
    most = Counter(labels).most_common(1)[0][1]
    fine,probe = 100*(2196-most)/3137,100*(1568-most)/3137
    assert f'*control* is {fine:.2f} points above' in shown and f'has {100*probe/fine:.0f} % of them ({probe:.2f}); the largest difference of any method is 10.01' in shown
    assert '*SCN* 2.0 (1.0)' in shown and '| MVT | control | | | | | | | its turn |' in shown
    assert '| CE | 70.00 | 59.99 | | SCN | 80.01 (+10.01*) | 59.99 (+0.00) |' in shown
    none = ' '.join(execute('table4', tmp_path, results=str(tmp_path/'nothing'), **asked).split())
    assert none.count("can't be said yet")==2 and 'counted in operations forward, so many times their control: *MVT* 1.5; the other 3' in none
    assert '**88.88** of *MVT*' in none and '**88.57** of *the paper' in none and none.count('is no rounded share')==2
