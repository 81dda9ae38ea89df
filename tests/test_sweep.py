"""Sweeps as their users meet them: a cluster whose worker is killed, Ctrl-C, two processes, the
tables' files, ten thousand records."""
import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace

import psutil
import pytest
import yaml

from fer_nr.locks import is_running
from fer_nr.results import records, table
from fer_nr.spec import RunSpec, spec_from
from fer_nr.sweep import fer_nr_sweep, on_cluster, read_tables, specs_of
from fer_nr.training import load_state
from test_runs import BIN, ROOT, TINY

ENV = os.environ | dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
# what --compiled leads to is tested in test_training; here, that it arrives
ENV['TORCHDYNAMO_DISABLE'] = '1'

SWIFT = TINY | dict(up='bilinear', down='none', loss='ce')


def command(name, *args):
    "A command that has ended"
    return subprocess.run([BIN/name, *args], cwd=ROOT, env=ENV, capture_output=True, text=True)


def history(folder):
    "What the checkpoint of a run tells of its epochs"
    checkpoint = folder/'checkpoint.safetensors'
    return load_state(checkpoint)[1]['history'] if checkpoint.exists() else []


def until(what, seconds=300):
    "Wait until `what` returns something, and return it"
    end = time.time() + seconds
    while time.time() < end:
        if result := what():
            return result
        time.sleep(.05)
    raise TimeoutError(f'{seconds} s passed')


@pytest.fixture
def cluster(tmp_path):
    "The address of a dask scheduler, and two workers of one thread; all in processes of their own"
    address = tmp_path/'cluster.json'
    settings = dict(env=ENV, cwd=ROOT, stdout=subprocess.DEVNULL,
                    stderr=open(tmp_path/'cluster.log', 'w'), start_new_session=True)
    common = ['--no-dashboard', '--scheduler-file', address]
    scheduler = [BIN/'dask', 'scheduler', '--port', '0', *common]
    worker = [BIN/'dask', 'worker', *common, '--nthreads', '1', '--no-nanny',
              '--local-directory', tmp_path, '--death-timeout', '60']
    processes = [subprocess.Popen(scheduler, **settings)]
    until(address.exists)
    processes += [subprocess.Popen(worker, **settings) for _ in range(2)]
    yield str(address), processes[1:]
    for process in processes:
        process.kill()
        process.wait()


def has_open(process, path):
    "Whether a process holds this file open"
    return any(file.path == str(path) for file in process.open_files())


def test_cluster_survives_a_dead_worker(cluster, tmp_path):
    """One of two workers is killed in the middle of three runs, and everything ends complete

    Each run is there once, the interrupted one continued from its checkpoint.
    """
    scheduler, workers = cluster
    specs = [RunSpec(**SWIFT | dict(epochs=12, seed=seed)) for seed in range(3)]
    runs, results = tmp_path/'runs', tmp_path/'results'
    killed = {}

    def under_way():
        "The folder of a run that has done an epoch"
        folders = (runs/spec.id for spec in specs)
        return next((each for each in folders if is_running(each) and history(each)), None)

    def kill_one():
        "Once a run has done an epoch: kill the worker that its kernel belongs to"
        folder = until(under_way)
        kernel = next(process for worker in workers
                      for process in psutil.Process(worker.pid).children(recursive=True)
                      if has_open(process, folder/'lock'))
        os.kill(kernel.ppid(), signal.SIGKILL)
        killed.update(id=folder.name, history=history(folder))

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    ends = on_cluster(specs, scheduler, runs, results, every=5, checkpoint_seconds=.3)
    killer.join()
    assert set(ends.values()) == {'done'}
    assert [worker.poll() for worker in workers].count(None) == 1
    found = records(results)
    assert sorted(record['id'] for record in found) == sorted(spec.id for spec in specs)
    assert len(list(results.iterdir())) == 3
    interrupted = next(record for record in found if record['id'] == killed['id'])
    epochs_before = len(killed['history'])
    assert 0 < epochs_before < 12 == len(interrupted['history'])
    continued = interrupted['history'][:epochs_before] == killed['history']
    assert continued, 'continued, seconds and all'


def test_ctrl_c_loses_nothing(tmp_path, capsys):
    """Stopped in its first run: one line, nothing marked failed

    The same command continues there, and stops where its limit is.
    """
    rows = [dict(name=loss, spec=dict(loss=loss)) for loss in ('ce', 'focal')]
    own = dict(title='Own', base=SWIFT | dict(epochs=8), rows=rows)
    file, runs, results = tmp_path/'own.yaml', tmp_path/'runs', tmp_path/'results'
    file.write_text(yaml.safe_dump(own))
    args = [file, '--runs', runs, '--results', results, '--limit', '1']
    folder = runs/specs_of(read_tables([str(file)]))[0].id
    # what runs in a shell's background ignores Ctrl-C
    process = subprocess.Popen([BIN/'fer_nr_sweep', *args], cwd=ROOT, env=ENV, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    before = until(lambda: history(folder))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and '2 missing' in out
    assert err.splitlines()[-1] == 'fer_nr: stopped; the same command continues', err
    assert 'Traceback' not in err and 'run 1/2, epoch 1/8' in err, err
    assert not (folder/'failed.json').exists() and not list(tmp_path.glob('results/*'))
    again = command('fer_nr_sweep', *args, '--compiled')
    assert again.returncode == 0 and '1 partial' in again.stdout, again.stdout + again.stderr
    assert again.stdout.splitlines()[-1] == '1 done, 1 missing', again.stdout + again.stderr
    assert 'run 1/2' in again.stderr and 'run 2/2' not in again.stderr
    record, = records(results)
    assert record['history'][:len(before)] == before
    assert len(record['history']) == 8 and record['compiled']
    fer_nr_sweep([str(file)], runs=runs, results=results, seeds=2, dry_run=True)
    out = capsys.readouterr().out
    assert '3 missing, 1 done' in out and len(list(runs.iterdir())) == 1, 'only shown'


def test_ten_thousand_records(tmp_path):
    """They load and tabulate, a damaged one among them is named

    Each seed counts once, also if it is there twice. Those with votes know the first 1,000 images.
    """
    real = json.loads(next((ROOT/'results').glob('*.json')).read_text())
    real = real | dict(metrics={})
    answers, labels = real['predictions']['test'], real['labels']['test']
    better = real['predictions'] | dict(test=labels[:1000] + answers[1000:])
    gained = sum(answer != label for answer, label in zip(answers[:1000], labels))
    for i in range(10_000):
        spec = real['spec'] | dict(loss=('ce', 'votes')[i % 2], seed=i//2)
        record = real | dict(id=f'{i % 9999}', spec=spec)
        if i % 2:
            record['predictions'] = better
        (tmp_path/f'{i}.json').write_text(json.dumps(record))
    (tmp_path/'5.json').write_text('{"id": ')
    with pytest.warns(UserWarning, match=r'5\.json is not JSON') as said:
        found = records(tmp_path)
    assert len(found) == 9998 and len(said) == 1
    base = replace(spec_from(real['spec']), loss='ce')
    votes = dict(name='votes', baseline='ce', spec=replace(base, loss='votes'))
    rows = table(dict(rows=[dict(name='ce', spec=base), votes]), found)
    assert rows.seeds.tolist() == [5000, 4998]
    difference, p = rows.loc['votes', ['difference', 'p']]
    assert difference == pytest.approx(100*gained/len(labels)) and gained > 100
    assert p == pytest.approx(2*.5**gained, rel=1e-6), 'all gained, none lost'
