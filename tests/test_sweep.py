"Sweeps as their users meet them: a cluster whose worker is killed, Ctrl-C, two processes, the tables' files, ten thousand records."
import json, os, signal, subprocess, threading, time
from dataclasses import replace

import psutil, pytest, yaml

from fer_nr.locks import is_running
from fer_nr.results import records, table
from fer_nr.spec import RunSpec, spec_from
from fer_nr.sweep import fer_nr_sweep, on_cluster, read_tables, specs_of
from fer_nr.training import load_state
from test_runs import BIN, ROOT, TINY

ENV = os.environ|dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
ENV['TORCHDYNAMO_DISABLE'] = '1' # what --compiled leads to is tested in test_training; here, that it arrives

SWIFT = TINY|dict(up='bilinear', down='none', loss='ce')

def command(name, *args):
    "A command that has ended"
    return subprocess.run([BIN/name, *args], cwd=ROOT, env=ENV, capture_output=True, text=True)

def history(d):
    "What the checkpoint of a run tells of its epochs"
    return load_state(d/'checkpoint.safetensors')[1]['history'] if (d/'checkpoint.safetensors').exists() else []

def until(what, seconds=300):
    "Wait until `what` returns something, and return it"
    end = time.time()+seconds
    while time.time()<end:
        if r := what(): return r
        time.sleep(.05)
    raise TimeoutError(f'{seconds} s passed')

@pytest.fixture
def cluster(tmp_path):
    "The address of a dask scheduler, and two workers of one thread; all in processes of their own"
    file = tmp_path/'cluster.json'
    kw = dict(env=ENV, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=open(tmp_path/'cluster.log', 'w'), start_new_session=True)
    ps = [subprocess.Popen([BIN/'dask', 'scheduler', '--port', '0', '--no-dashboard', '--scheduler-file', file], **kw)]
    until(file.exists)
    ps += [subprocess.Popen([BIN/'dask', 'worker', '--scheduler-file', file, '--nthreads', '1', '--no-nanny', '--no-dashboard', '--local-directory', tmp_path, '--death-timeout', '60'], **kw) for _ in range(2)]
    yield str(file), ps[1:]
    for p in ps: p.kill(); p.wait()

def test_cluster_survives_a_dead_worker(cluster, tmp_path):
    "Two workers, three runs; one worker is killed in the middle of a run: everything ends complete, each run once, the interrupted one from its checkpoint"
    scheduler,workers = cluster
    specs = [RunSpec(**SWIFT|dict(epochs=12, seed=s)) for s in range(3)]
    runs,results = tmp_path/'runs',tmp_path/'results'
    killed = {}
    def kill_one():
        "Once a run has done an epoch: kill the worker that its kernel belongs to"
        d = until(lambda: next((d for d in (runs/s.id for s in specs) if is_running(d) and history(d)), None))
        kernel = next(p for w in workers for p in psutil.Process(w.pid).children(recursive=True) if any(f.path==str(d/'lock') for f in p.open_files()))
        os.kill(kernel.ppid(), signal.SIGKILL)
        killed.update(id=d.name, history=history(d))
    t = threading.Thread(target=kill_one, daemon=True); t.start()
    ends = on_cluster(specs, scheduler, runs, results, every=5, checkpoint_seconds=.3)
    t.join()
    assert set(ends.values())=={'done'} and [w.poll() for w in workers].count(None)==1
    recs = records(results)
    assert sorted(r['id'] for r in recs)==sorted(s.id for s in specs) and len(list(results.iterdir()))==3
    r = next(r for r in recs if r['id']==killed['id'])
    assert 0<len(killed['history'])<12==len(r['history']) and r['history'][:len(killed['history'])]==killed['history'], 'continued, seconds and all'

def test_ctrl_c_loses_nothing(tmp_path, capsys):
    "Stopped in its first run: one line, nothing marked failed; the same command continues there, and stops where its limit is"
    rows = [dict(name=o, spec=dict(loss=o)) for o in ('ce','focal')]
    (tmp_path/'own.yaml').write_text(yaml.safe_dump(dict(title='Own', base=SWIFT|dict(epochs=8), rows=rows)))
    args = [tmp_path/'own.yaml', '--runs', tmp_path/'runs', '--results', tmp_path/'results', '--limit', '1']
    d = tmp_path/'runs'/specs_of(read_tables([str(tmp_path/'own.yaml')]))[0].id
    p = subprocess.Popen([BIN/'fer_nr_sweep', *args], cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) # what runs in a shell's background ignores it
    before = until(lambda: history(d))
    p.send_signal(signal.SIGINT)
    out,err = p.communicate(timeout=120)
    assert p.returncode==1 and '2 missing' in out
    assert err.splitlines()[-1]=='fer_nr: stopped; the same command continues' and 'Traceback' not in err and 'run 1/2, epoch 1/8' in err, err
    assert not (d/'failed.json').exists() and not list(tmp_path.glob('results/*'))
    r = command('fer_nr_sweep', *args, '--compiled')
    assert r.returncode==0 and '1 partial' in r.stdout and r.stdout.splitlines()[-1]=='1 done, 1 missing', r.stdout+r.stderr
    assert 'run 1/2' in r.stderr and 'run 2/2' not in r.stderr
    rec, = records(tmp_path/'results')
    assert rec['history'][:len(before)]==before and len(rec['history'])==8 and rec['compiled']
    fer_nr_sweep([str(tmp_path/'own.yaml')], runs=tmp_path/'runs', results=tmp_path/'results', seeds=2, dry_run=True)
    out = capsys.readouterr().out
    assert '3 missing, 1 done' in out and len(list((tmp_path/'runs').iterdir()))==1, 'only shown'

def test_ten_thousand_records(tmp_path):
    "They load and tabulate, a damaged one among them is named; each seed counts once, also if it is there twice"
    r = json.loads(next((ROOT/'results').glob('*.json')).read_text())
    r = r|dict(metrics={})
    for i in range(10_000): (tmp_path/f'{i}.json').write_text(json.dumps(r|dict(id=f'{i%9999}', spec=r['spec']|dict(loss=('ce','votes')[i%2], seed=i//2))))
    (tmp_path/'5.json').write_text('{"id": ')
    with pytest.warns(UserWarning, match=r'5\.json is not JSON') as w: recs = records(tmp_path)
    assert len(recs)==9998 and len(w)==1
    base = replace(spec_from(r['spec']), loss='ce')
    t = table(dict(rows=[dict(name='ce', spec=base), dict(name='votes', baseline='ce', spec=replace(base, loss='votes'))]), recs)
    assert t.seeds.tolist()==[5000,4998] and t.loc['votes','difference']==0 and t.loc['votes','p']==1
