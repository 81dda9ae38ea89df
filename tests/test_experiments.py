"Every experiment's notebook runs through papermill with tiny settings, and what it says follows from the records."
import json, os, re
from pathlib import Path

import papermill as pm, pytest

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
    for name in (*TINY, 'tables', 'ablation'):
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
