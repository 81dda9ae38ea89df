"Sweeps as their users meet them: a cluster whose worker is killed, Ctrl-C, budgets, ten thousand records."
import json, os, re, signal, subprocess, sys, threading, time
from dataclasses import replace
from pathlib import Path

import psutil, pytest, yaml

from fer_nr.ablation import RunSpec, is_running, load_table, records, spec_from, status, table
from fer_nr.sweep import find_table, on_cluster, read_tables, specs_of
from fer_nr.training import load_state
from test_runs import BIN, ROOT, TINY, command

ENV = os.environ|dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
SWIFT = TINY|dict(up='bilinear', down='none', loss='ce')
ALL = ('table1','table2','table3','table4','controls','robustness')

def until(what, seconds=60):
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
        done = lambda d: load_state(d/'checkpoint.safetensors')[1]['history'] if (d/'checkpoint.safetensors').exists() else []
        d = until(lambda: next((d for d in (runs/s.id for s in specs) if is_running(d) and done(d)), None), 120)
        kernel = next(p for w in workers for p in psutil.Process(w.pid).children(recursive=True) if any(f.path==str(d/'lock') for f in p.open_files()))
        os.kill(kernel.ppid(), signal.SIGKILL)
        killed.update(id=d.name, history=done(d))
    t = threading.Thread(target=kill_one, daemon=True); t.start()
    ends = on_cluster(specs, scheduler, runs, results, every=5, checkpoint_seconds=.3)
    t.join()
    assert set(ends.values())=={'done'} and [w.poll() for w in workers].count(None)==1
    recs = records(results)
    assert sorted(r['id'] for r in recs)==sorted(s.id for s in specs) and len(list(results.iterdir()))==3
    r = next(r for r in recs if r['id']==killed['id'])
    assert 0<len(killed['history'])<12==len(r['history']) and r['history'][:len(killed['history'])]==killed['history'], 'continued, seconds and all'
