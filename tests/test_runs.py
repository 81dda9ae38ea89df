"Whole runs by command and papermill: progress, record, resume after `kill -9`, and what bad input prints."
import json, os, re, signal, subprocess, sys, time
from dataclasses import MISSING, fields
from pathlib import Path

import papermill as pm, pytest, yaml

from fer_nr.ablation import RunSpec, fer_nr_run, load_table, records, spec_from, status, table

ROOT = Path(__file__).parent.parent
TRAIN = ROOT/'nbs/experiments/train.ipynb'
TINY = dict(data='synthetic', limit=300, arch='swin_tiny_patch4_window7_224', arch_args=dict(window_size=4, embed_dim=16, depths=[1,1], num_heads=[1,2]),
    img_size=64, up='sr', up_size=96, down='ltr', head='linear', loss='fpdls', lr=2e-3, layer_decay=1., ema=.9, epochs=2, bs=32)
BIN = Path(sys.executable).parent

def command(name, *args, cwd=ROOT, **kw):
    env = os.environ|dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    return subprocess.run([BIN/name, *map(str, args)], capture_output=True, text=True, cwd=cwd, env=env, **kw)

@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A finished tiny run: (folder, its parameters, what the command printed)"
    d = tmp_path_factory.mktemp('tiny'); (d/'tiny.yaml').write_text(yaml.safe_dump(TINY))
    r = command('fer_nr_run', d/'tiny.yaml', '--runs', d/'runs', '--results', d/'results')
    assert r.returncode==0, r.stderr
    return d, r

def record_of(d): return records(d)[0]

def test_run_leaves_everything(tiny):
    d,r = tiny
    folder = d/'runs'/RunSpec(**TINY).id
    assert {'train.ipynb','record.json','logits.safetensors','best.safetensors','checkpoint.safetensors'} <= {p.name for p in folder.iterdir()}
    rec = record_of(d/'results')
    assert rec==json.loads((folder/'record.json').read_text()) and rec['id']==folder.name
    for k in ('spec','data','parameters','versions','device','seconds','images_per_s','peak_memory_mb','history','selected_epoch','metrics','predictions'): assert rec[k], k
    assert len(rec['history'])==2 and len(rec['predictions']['test'])==rec['metrics']['test']['n']==rec['data']['images']['test']
    assert 'train.ipynb' in r.stdout and re.search(r'epoch \d/2, batch \d+/\d+, loss', r.stderr), 'progress also when stderr is a file'

def test_finished_run_is_not_run_twice(tiny):
    d,_ = tiny
    before = (d/'runs'/RunSpec(**TINY).id/'record.json').stat().st_mtime_ns
    assert command('fer_nr_run', d/'tiny.yaml', '--runs', d/'runs').returncode==0
    assert (d/'runs'/RunSpec(**TINY).id/'record.json').stat().st_mtime_ns==before

def test_killed_run_ends_at_the_same_numbers(tiny, tmp_path):
    "The command and its kernel die in the middle; the same command continues"
    d,_ = tiny
    args = [BIN/'fer_nr_run', d/'tiny.yaml', '--runs', tmp_path]
    env = os.environ|dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    p = subprocess.Popen(args, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    folder = tmp_path/RunSpec(**TINY).id
    while not (folder/'progress.json').exists() and p.poll() is None: time.sleep(.05)
    assert p.poll() is None
    os.killpg(p.pid, signal.SIGKILL); p.wait()
    assert status(RunSpec(**TINY), tmp_path, tmp_path) in ('partial','missing','running')
    r = command('fer_nr_run', d/'tiny.yaml', '--runs', tmp_path); assert r.returncode==0, r.stderr
    a,b = record_of(d/'results'),record_of(tmp_path)
    assert a['predictions']==b['predictions'] and a['metrics']==b['metrics'] and a['selected_epoch']==b['selected_epoch']

def test_notebook_and_spec_agree():
    "The notebook's parameters are the fields of `RunSpec`, with a help for each that papermill shows"
    ps = pm.inspect_notebook(TRAIN)
    assert set(ps)=={f.name for f in fields(RunSpec)}|{'data_path','runs','checkpoint_seconds','processes'}
    assert all(p['help'] and p['inferred_type_name']!='None' for p in ps.values())
    r = command('papermill', '--help-notebook', TRAIN)
    assert all(re.search(rf'^\s+{n}:', r.stdout, re.M) for n in ps), r.stdout

@pytest.mark.parametrize('f', sorted((TRAIN.parent/'params').glob('*.yaml')), ids=lambda f: f.stem)
def test_parameter_files_are_valid(f):
    d = yaml.safe_load(f.read_text())
    if 'rows' in d: assert load_table(f)['rows']
    else: assert spec_from(d)

def test_table_from_records(tiny, tmp_path):
    "A row with records shows their mean; a row without stays empty"
    d,_ = tiny
    (tmp_path/'t.yaml').write_text(yaml.safe_dump(dict(title='T', base=TINY, rows=[dict(name='here', spec={}, paper=50.), dict(name='not here', baseline='here', spec=dict(loss='ce'))])))
    t = table(load_table(tmp_path/'t.yaml'), records(d/'results'))
    m = record_of(d/'results')['metrics']['test']['top1']
    assert t.loc['here','ours']==pytest.approx(100*record_of(d/'results')['metrics']['test']['correct']/record_of(d/'results')['metrics']['test']['n'])
    assert t.loc['here','seeds']==1 and t.loc['not here'].drop(['seeds','paper']).isna().all()
    r = command('fer_nr_tables', tmp_path/'t.yaml', '--runs', tmp_path, '--results', d/'results')
    assert r.returncode==0 and 'here' in r.stdout

BAD = { # what is wrong: (arguments, what the one line says)
    'no file': (['nowhere.yaml'], r'nowhere\.yaml is not there: expected a YAML file'),
    'not YAML': (['{tmp}/bad.yaml'], r'bad\.yaml is not YAML'),
    'unknown parameter': (['epoch=3'], r"parameter 'epoch' is unknown.*did you mean 'epochs'"),
    'unknown loss': (['loss=fpdl'], r"loss 'fpdl' is unknown.*did you mean 'fpdls'"),
    'not a number': (['lr=fast'], r"lr is 'fast': expected a number"),
    'out of range': (['ema=1.5'], 'outside its range'),
    'no weight file': (['data=synthetic', 'weights=gone.safetensors'], r'weights=gone\.safetensors: no such weight file'),
    'no data': (['data=ferplus'], r'FileNotFoundError: .*gone: not found; expected a folder'),
    'unknown backbone': (['data=synthetic', 'limit=60', 'arch=vit_tinny_patch16_224'], r"vit_tinny_patch16_224.*vit_tiny_patch16_224"),
}

@pytest.mark.parametrize('what', BAD)
def test_bad_input_is_one_line(what, tmp_path, capfd):
    "No traceback from a command: one line that says what, where and what was expected"
    (tmp_path/'bad.yaml').write_text('a: [1\n')
    args,expected = BAD[what]
    with pytest.raises(SystemExit) as e: fer_nr_run([a.format(tmp=tmp_path) for a in args], runs=str(tmp_path/'runs'), data_path=str(tmp_path/'gone'))
    err = capfd.readouterr().err
    said = [l for l in err.splitlines() if l.startswith('fer_nr:')]
    assert e.value.code==1 and len(said)==1 and re.search(expected, said[0]) and 'Traceback' not in err, err

def test_failed_run_says_so_and_can_be_repeated(tmp_path, capfd):
    "A run that failed is marked, with its error; a corrected one starts"
    with pytest.raises(SystemExit): fer_nr_run(['data=ferplus'], runs=str(tmp_path), data_path=str(tmp_path/'gone'))
    spec = RunSpec(data='ferplus')
    assert status(spec, tmp_path, tmp_path)=='failed' and 'FileNotFoundError' in json.loads((tmp_path/spec.id/'failed.json').read_text())['error']

def test_unknown_table():
    r = command('fer_nr_tables', 'tabel1')
    assert r.returncode==1 and "did you mean 'table1'" in r.stderr and 'Traceback' not in r.stderr
