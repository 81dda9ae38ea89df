"""Kills, races, full disks and damaged inputs, tried on whole runs by command, with their counts.

    python -m tools.campaign trainings --n 300  # in Python: killed, continued, equal numbers
    python -m tools.campaign kills --n 100      # the same of whole runs by command
    python -m tools.campaign races              # eight commands for one run, two sweeps at once
    python -m tools.campaign disks --n 20       # full or read-only, at different moments
    python -m tools.campaign inputs --n 500     # damaged csv files, pictures, YAML, weights …

All of it is seeded. Each part ends with its counts, and with exit code 1 if one of them is in
capital letters: something was lost, left behind or said badly. The short form of each part is
`tests/test_campaign.py`.
"""
import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from fer_nr.ablation import RunSpec, build_learner, load_faces, make_record

from .damaged_inputs import inputs

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
MARK = 'FER_NR_CAMPAIGN'  # an environment variable that all processes of a command inherit
TINY = dict(data='synthetic', limit=60, arch='vit_tiny_patch16_224', img_size=32, head='linear',
            arch_args=dict(depth=1, embed_dim=48, num_heads=3), loss='fpdls', augment='none',
            lr=2e-3, layer_decay=1., ema=.9, epochs=40, bs=16)
WRONG = ('LOST', 'LEFT', 'DIFFERENT', 'ORPHAN', 'HANG', 'UNCLEAR', 'TRACEBACK', 'SILENT', 'REFUSED',
         'EXECUTED')
CLOCKS = 'seconds', 'images_per_s'  # of an epoch: they differ from run to run


# --- commands and their processes ----------------------------------------------------------

def prepare(folder, **changes):
    "An empty folder with the tiny run's parameters"
    (folder/'tmp').mkdir(parents=True, exist_ok=True)
    (folder/'tiny.yaml').write_text(yaml.safe_dump(TINY | changes))
    return folder


def hear_ctrl_c():
    "What runs in a shell's background ignores Ctrl-C; a terminal's command does not"
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder, mark, name='fer_nr_run', *more):
    "A command on the tiny run in `folder`, in a session of its own"
    line = [BIN/name, folder/'tiny.yaml', '--runs', folder/'runs', *more]
    return subprocess.Popen(line, cwd=ROOT, env=marked(folder, mark), start_new_session=True,
                            text=True, preexec_fn=hear_ctrl_c, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE)


def marked(folder, mark):
    "An environment by which its processes are found; temporary files go below `folder`"
    return os.environ | {MARK: mark, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore',
                         'TMPDIR': str(folder/'tmp')}


def finish(folder, mark):
    "Run the command to its end; returns (exit code, what it said)"
    process = start(folder, mark)
    _, said = process.communicate()
    return process.returncode, said


def processes(mark, name=b''):
    "Numbers of the processes that carry the mark, with `name` in their command line"
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            marked = f'{MARK}={mark}\0'.encode() in (folder/'environ').read_bytes()
            if marked and name in (folder/'cmdline').read_bytes():
                found.append(int(folder.name))
        except OSError:
            pass  # it has ended
    return found


def kill_all(numbers):
    for number in numbers:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended


def gone(mark, seconds=20):
    "Whether all processes with the mark end within so many seconds"
    end = time.time() + seconds
    while processes(mark) and time.time() < end:
        time.sleep(.1)
    return not processes(mark)


def said_one_line(said):
    "Whether a command that failed said why in one line of its own, without a traceback"
    lines = [line for line in said.splitlines() if line.startswith('fer_nr:')]
    return len(lines) == 1 and 'Traceback' not in said


# --- what a run came to --------------------------------------------------------------------

def folder_of(work):
    "The folder of the only run below `work`"
    [run] = [path for path in (work/'runs').iterdir() if path.is_dir()]
    return run


def outcome(work):
    "What must be equal: weights, metrics, predictions, logits, and the history without its clocks"
    run = folder_of(work)
    record = json.loads((run/'record.json').read_text())
    history = [{name: value for name, value in row.items() if name not in CLOCKS}
               for row in record['history']]
    tensors = {name: {key: tensor.tolist() for key, tensor in load_file(run/name).items()}
               for name in ('best.safetensors', 'logits.safetensors')}
    kept = {name: record[name] for name in ('metrics', 'predictions', 'selected_epoch')}
    return kept | dict(history=history, **tensors)


WHOLE = {'train.ipynb', 'record.json', 'logits.safetensors', 'best.safetensors', 'progress.json',
         'checkpoint.safetensors', 'lock', 'command.lock'}  # of a finished run's folder


def leftovers(work):
    "Names of files that a finished run should not have left; torch keeps a folder of its own"
    names = {path.name for path in folder_of(work).iterdir()} - WHOLE
    names |= {path.name for path in (work/'tmp').iterdir()}
    return sorted(name for name in names if not name.startswith('torchinductor'))


def trains(work, since=0.):
    "Whether the run has reported how far it is"
    return any(path.stat().st_mtime >= since for path in work.glob('runs/*/progress.json'))


def reference(folder):
    "(what an undisturbed run comes to, its seconds, those of them before it trains)"
    work, began, training = prepare(folder/'reference'), time.time(), None
    process = start(work, 'reference')
    while process.poll() is None:
        if not training and trains(work):
            training = time.time() - began
        time.sleep(.05)
    assert process.returncode == 0, process.stderr.read()
    return outcome(work), time.time() - began, training


# --- trainings in Python -------------------------------------------------------------------

def train(spec, faces, folder, errors=None):
    "A training with a checkpoint after each batch, and its record; its error goes to a queue"
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        learn = build_learner(spec, faces, folder, device='cpu', seconds=0)
        learn.fit_recipe(spec.epochs)
        make_record(spec, faces, learn, folder)
    except (ValueError, OSError, RuntimeError) as error:
        if errors is None:
            raise
        errors.put(str(error).split(':\n\t')[-1])  # fastai names the callback before it
        sys.exit(1)


def in_child(spec, faces, work, errors=None):
    "A training in a forked process, which has nothing to import"
    arguments = spec, faces, work/'runs'/spec.id, errors
    child = multiprocessing.get_context('fork').Process(target=train, args=arguments)
    child.start()
    return child


def undisturbed(folder, **changes):
    "(spec, its faces, what its training comes to, its seconds)"
    spec = RunSpec(**TINY | dict(epochs=5) | changes)
    faces, work, began = load_faces(spec), prepare(folder/'undisturbed'), time.time()
    child = in_child(spec, faces, work)
    child.join()
    assert child.exitcode == 0
    return spec, faces, outcome(work), time.time() - began


def judge_end(work, code, said, expected, counts, say=print):
    "Count what a run came to at its end, after what it went through"
    if code:
        counts['LOST: could not continue'] += 1
        say(work, said[-1000:])
        return
    counts['equal numbers' if outcome(work) == expected else 'DIFFERENT numbers'] += 1
    if leftovers(work):
        counts['LEFT files behind'] += 1
        say(work, leftovers(work))


def trainings(n, seed, folder, say=print):
    "Kill trainings in Python at random moments, continue them, compare"
    rng, counts = random.Random(seed), Counter()
    spec, faces, expected, seconds = undisturbed(folder)
    say(f'undisturbed: {seconds:.1f} s')
    tried = 0
    while tried < n:
        work = prepare(folder/f'from{tried}')
        for _ in range(min(rng.randint(2, 5), n - tried)):
            child = in_child(spec, faces, work)
            child.join(rng.uniform(0, seconds))
            if not child.is_alive():
                break
            child.kill()
            child.join()
            counts['killed'] += 1
            tried += 1
        child = in_child(spec, faces, work)
        child.join()
        judge_end(work, child.exitcode, '', expected, counts, say)
        if child.exitcode:
            continue
        shutil.rmtree(work)
    return counts


# --- the parts by command ------------------------------------------------------------------

WAYS = 'group', 'kernel', 'parent', 'term', 'interrupt'


def stop(process, mark, how):
    "Stop a command in one of the `WAYS`"
    if how == 'group':
        kill_all(processes(mark))
    elif how == 'kernel':
        while process.poll() is None and not processes(mark, b'ipykernel'):
            time.sleep(.05)  # it has not begun yet
        kill_all(processes(mark, b'ipykernel'))
    elif how == 'parent':
        process.kill()
    elif how == 'term':
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it


def wait_a_while(process, work, rng, seconds, training):
    "Until a random moment: of the whole run, or of what comes when it begins to train"
    began = time.time()
    if rng.random() < .5:
        end = began + rng.uniform(0, seconds)
    else:
        while process.poll() is None and not trains(work, began):
            time.sleep(.05)
        end = time.time() + rng.uniform(0, seconds - training)
    while process.poll() is None and time.time() < end:
        time.sleep(.05)


def killed_once(work, mark, rng, seconds, training, counts, say=print):
    "Start the run and kill it somewhere; False if it ended before. Counts how, and what was wrong"
    how = rng.choice(WAYS)
    process = start(work, mark)
    wait_a_while(process, work, rng, seconds, training)
    if process.poll() is not None:
        process.communicate()
        return False
    counts[f'killed: {how}'] += 1
    stop(process, mark, how)
    try:
        _, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        counts[f'HANG after: {how}'] += 1
        stop(process, mark, 'group')
        _, said = process.communicate()
    if 'Traceback' in said:
        counts[f'TRACEBACK after: {how}'] += 1
        say(mark, how, said[-2000:])
    if not gone(mark):
        counts[f'ORPHAN after: {how}'] += 1
        kill_all(processes(mark))
    return True


def kills(n, seed, folder, say=print):
    "Kill runs at random moments, continue them, compare with one that was never killed"
    rng, counts = random.Random(seed), Counter()
    expected, seconds, training = reference(folder)
    say(f'undisturbed: {seconds:.0f} s, {training:.0f} of them before it trains')
    tried = 0
    while tried < n:
        work = prepare(folder/f'from{tried}')
        for _ in range(min(rng.randint(2, 5), n - tried)):
            if not killed_once(work, f'kill{tried}', rng, seconds, training, counts, say):
                break
            tried += 1
        code, said = finish(work, f'end{tried}')
        judge_end(work, code, said, expected, counts, say)
        if code:
            continue
        shutil.rmtree(work)
        say(f'{tried}:', dict(counts))
    return counts


def race_of_runs(n, folder, expected, counts, say=print):
    "`n` commands start the same run at once"
    work = prepare(folder/'race')
    started = [start(work, 'race') for _ in range(n)]
    for process in started:
        _, said = process.communicate()
        if process.returncode == 0:
            counts['exit 0'] += 1
            continue
        counts['one line' if said_one_line(said) else 'UNCLEAR'] += 1
        say(said[-300:])
    judge_end(work, 0, '', expected, counts, say)


def race_of_sweeps(folder, counts, seeds=3, say=print):
    "Two sweeps go over one folder: each run is done once, and published"
    work = prepare(folder/'sweeps')
    rows = [dict(name=f'seed {seed}', spec=dict(seed=seed)) for seed in range(seeds)]
    table = dict(title='T', base=TINY | dict(epochs=2), rows=rows)
    (work/'tiny.yaml').write_text(yaml.safe_dump(table))
    sweeps = [start(work, 'sweeps', 'fer_nr_sweep', '--results', work/'results') for _ in range(2)]
    for process in sweeps:
        _, said = process.communicate()
        if process.returncode:
            counts['sweep: one line' if said_one_line(said) else 'sweep: UNCLEAR'] += 1
            say(said[-300:])
    found = len(list((work/'results').glob('*.json')))
    whole = all(not (run/'failed.json').exists() for run in (work/'runs').iterdir())
    good = found == seeds and whole
    counts['two sweeps: all records' if good else f'two sweeps: {found} RECORDS LOST'] += 1


def races(n, seed, folder, say=print):
    "Eight processes start one run; two sweeps go over one folder"
    counts = Counter()
    expected, _, _ = reference(folder)
    race_of_runs(8, folder, expected, counts, say)
    race_of_sweeps(folder, counts, say=say)
    return counts


def mount(folder, *options):
    "A file system in memory, or new options of one; raises `OSError` where one may not"
    folder.mkdir(parents=True, exist_ok=True)
    line = ['mount', '-t', 'tmpfs', '-o', ','.join(options), 'tmpfs', folder]
    if subprocess.run(line, capture_output=True).returncode:
        raise OSError('a file system in memory cannot be mounted here')


def attempt(work, spec, faces):
    "(exit code, error) of a training in Python"
    errors = multiprocessing.get_context('fork').SimpleQueue()
    child = in_child(spec, faces, work, errors)
    child.join()
    return child.exitcode, '' if errors.empty() else errors.get()


def judge_failure(code, said, clear, what, counts, say=print):
    "Count how a run ended for which there was no room, or that might not write"
    if code == 0:
        counts[f'{what}: none'] += 1
        return
    counts[f'{what}: one line' if clear else f'{what}: UNCLEAR'] += 1
    if not clear:
        say(what, code, said[-1000:])


def full_once(work, start_it, is_clear, kilobytes, expected, counts, say=print):
    "A run on a disk that fills up, and again once there is room"
    mount(work, f'size={kilobytes}k')
    try:
        code, said = start_it(prepare(work))
        judge_failure(code, said, is_clear(said), 'full', counts, say)
        mount(work, 'remount', 'size=1g')
        judge_end(work, *start_it(work), expected, counts, say)
    finally:
        subprocess.run(['umount', work], check=True)


def read_only_once(work, spec, faces, seconds, expected, counts, say=print):
    "A training whose folder may not be written any more after so many seconds"
    mount(work, 'size=1g')
    try:
        errors = multiprocessing.get_context('fork').SimpleQueue()
        child = in_child(spec, faces, prepare(work), errors)
        time.sleep(seconds)
        while child.is_alive():
            try:
                mount(work, 'remount', 'ro')
                break
            except OSError:
                pass  # a file is being written
        child.join()
        said = '' if errors.empty() else errors.get()
        judge_failure(child.exitcode, said, is_one_line(said), 'read-only', counts, say)
        mount(work, 'remount', 'rw')
        judge_end(work, *attempt(work, spec, faces), expected, counts, say)
    finally:
        subprocess.run(['umount', work], check=True)


def is_one_line(said):
    return 'could not be written' in said and said.isprintable()


def disks(n, seed, folder, say=print):
    "A disk that fills up, or is read-only, at `n` moments of trainings, and twice by command"
    rng, counts = random.Random(seed), Counter()
    spec, faces, expected, seconds = undisturbed(folder)
    files = [path for path in folder.rglob('*') if path.is_file()]
    size = sum(path.stat().st_size for path in files)/1024
    for k in range(n):
        work = folder/f'disk{k}'
        if k % 3:
            full_once(work, lambda work: attempt(work, spec, faces), is_one_line,
                      int(rng.uniform(1, size)), expected, counts, say)
        else:
            read_only_once(work, spec, faces, rng.uniform(0, seconds), expected, counts, say)
    expected, _, _ = reference(folder)
    for share in (.01, .5):
        full_once(folder/f'command{share}', lambda work: finish(work, 'disk'), said_one_line,
                  int(share*size), expected, counts, say)
    return counts


PARTS = dict(trainings=trainings, kills=kills, races=races, disks=disks, inputs=inputs)


def main():
    "Try one part and print its counts"
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=PARTS)
    parser.add_argument('--n', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='campaign-') as folder:
        counts = PARTS[options.part](options.n, options.seed, Path(folder))
    for name, count in sorted(counts.items()):
        print(f'{name:30} {count:4}')
    sys.exit(any(word in WRONG for name in counts for word in name.split()))


if __name__ == '__main__':
    main()
