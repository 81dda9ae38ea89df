"""Kills, races, full disks and damaged inputs, tried on whole runs by command, with their counts.

    python tools/campaign.py kills --n 100       # SIGKILL, SIGTERM, Ctrl-C at random moments; each run ends at equal numbers
    python tools/campaign.py races               # eight processes start one run; two sweeps over one folder
    python tools/campaign.py disks               # a full disk and a read-only folder at every write
    python tools/campaign.py inputs --n 300      # damaged csv, label files, pictures, YAML, weights, records, checkpoints

All of it is seeded. Each part ends with a table: how many were tried, and what came of them. The short form of each part is a test.
"""
import argparse
import json
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

import yaml

ROOT = Path(__file__).parent.parent
TINY = dict(data='synthetic', limit=200, arch='swin_tiny_patch4_window7_224', img_size=64, head='linear',
            arch_args=dict(window_size=4, embed_dim=16, depths=[1, 1], num_heads=[1, 2]),
            loss='fpdls', lr=2e-3, layer_decay=1., ema=.9, epochs=3, bs=16)
MARK = 'FER_NR_CAMPAIGN'  # an environment variable that all processes of a command inherit


def environment(mark):
    "The environment of a command whose processes can be found again"
    return os.environ | {MARK: mark, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}


def arguments(folder, *more):
    "The command line of the tiny run, in `folder`"
    return [str(Path(sys.executable).parent/'fer_nr_run'), str(folder/'tiny.yaml'), '--runs', str(folder/'runs'), *more]


def prepare(folder, **changes):
    "An empty folder with the tiny run's parameters"
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'tiny.yaml').write_text(yaml.safe_dump(TINY | changes))
    return folder


def processes(mark):
    "Numbers of the processes that carry the mark"
    found = []
    for entry in Path('/proc').glob('[0-9]*/environ'):
        try:
            if f'{MARK}={mark}'.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            pass  # it has ended
    return found


def kernels(mark):
    "Those of them that are Jupyter kernels"
    found = []
    for number in processes(mark):
        try:
            if b'ipykernel' in Path(f'/proc/{number}/cmdline').read_bytes():
                found.append(number)
        except OSError:
            pass
    return found


def start(folder, mark):
    "The tiny run's command, in a session of its own"
    with open(folder/'stderr', 'wb') as stderr:
        return subprocess.Popen(arguments(folder), cwd=ROOT, env=environment(mark), start_new_session=True,
                                stdout=subprocess.DEVNULL, stderr=stderr)


def kill(process, mark, how):
    "Stop the command in one of four ways"
    if how == 'group':
        os.killpg(process.pid, signal.SIGKILL)
        for number in processes(mark):
            os.kill(number, signal.SIGKILL)
    elif how == 'kernel':
        for number in kernels(mark):
            os.kill(number, signal.SIGKILL)
    elif how == 'parent':
        process.kill()
    elif how == 'term':
        process.terminate()
    else:
        process.send_signal(signal.SIGINT)


def gone(mark, seconds=20):
    "Whether all processes with the mark end within so many seconds"
    until = time.time() + seconds
    while time.time() < until:
        if not processes(mark):
            return True
        time.sleep(.1)
    return False


def outcome(folder):
    "What must be equal: weights, metrics, predictions, history without times"
    from safetensors.torch import load_file
    [run] = [p for p in (folder/'runs').iterdir() if p.is_dir()]
    record = json.loads((run/'record.json').read_text())
    history = [{k: v for k, v in row.items() if k not in ('seconds', 'images_per_s')} for row in record['history']]
    weights = {k: v.tolist() for k, v in load_file(run/'best.safetensors').items()}
    leftovers = [p.name for p in run.iterdir() if p.name.endswith('.tmp')]
    return dict(metrics=record['metrics'], predictions=record['predictions'], history=history, weights=weights), leftovers


def finish(folder, mark):
    "Run the command to its end; returns (exit code, what it said)"
    done = subprocess.run(arguments(folder), cwd=ROOT, env=environment(mark), capture_output=True, text=True)
    return done.returncode, done.stderr


def said_one_line(stderr):
    "Whether a command that failed said why in one line of its own, without a traceback"
    lines = [line for line in stderr.splitlines() if line.startswith('fer_nr')]
    return len(lines) == 1 and 'Traceback' not in stderr


def kills(n, seed, folder):
    "Kill runs at random moments, continue them, compare with one that was never killed"
    rng, counts = random.Random(seed), Counter()
    reference = prepare(folder/'reference')
    began = time.time()
    code, stderr = finish(reference, 'reference')
    assert code == 0, stderr
    expected, _ = outcome(reference)
    duration = time.time() - began
    done, number = 0, 0
    while done < n:
        work = prepare(folder/f'run{number}')
        number += 1
        for attempt in range(min(rng.randint(2, 5), n - done)):
            mark = f'{number}.{attempt}'
            how = rng.choice(['group', 'group', 'kernel', 'parent', 'term', 'interrupt'])
            process = start(work, mark)
            time.sleep(rng.uniform(0, duration))
            counts['finished before the kill' if process.poll() is not None else f'killed: {how}'] += 1
            kill(process, mark, how)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                counts['HANG after the kill'] += 1
                kill(process, mark, 'group')
            if how in ('term', 'interrupt', 'kernel') and 'Traceback' in (work/'stderr').read_text(errors='replace'):
                counts['TRACEBACK after the kill'] += 1
            if not gone(mark):
                counts['ORPHAN process'] += 1
            done += 1
        code, stderr = finish(work, f'{number}.end')
        if code:
            counts['LOST: could not continue'] += 1
            print(work, stderr[-500:], file=sys.stderr)
            continue
        found, leftovers = outcome(work)
        counts['continued to equal numbers' if found == expected else 'DIFFERENT numbers'] += 1
        if leftovers:
            counts['LEFT temporary files'] += 1
        shutil.rmtree(work)
    return counts


def races(n, seed, folder):
    "Eight processes start one run; two sweeps go over one folder"
    counts = Counter()
    reference = prepare(folder/'reference')
    code, stderr = finish(reference, 'reference')
    assert code == 0, stderr
    expected, _ = outcome(reference)
    work = prepare(folder/'eight')
    started = [subprocess.Popen(arguments(work), cwd=ROOT, env=environment('eight'), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)]
    for process in started:
        _, stderr = process.communicate()
        if process.returncode == 0:
            counts['exit 0'] += 1
        else:
            counts['one line' if said_one_line(stderr) else 'UNCLEAR'] += 1
    found, leftovers = outcome(work)
    [run] = [p for p in (work/'runs').iterdir() if p.is_dir()]
    counts['equal numbers' if found == expected else 'DIFFERENT numbers'] += 1
    counts['failed.json beside a record' if (run/'failed.json').exists() else 'nothing left by the losers'] += 1
    table = dict(title='T', base=TINY | dict(epochs=1), rows=[dict(name=f's{s}', spec=dict(seed=s)) for s in range(3)])
    work = prepare(folder/'sweeps')
    (work/'table.yaml').write_text(yaml.safe_dump(table))
    line = [str(Path(sys.executable).parent/'fer_nr_sweep'), str(work/'table.yaml'), '--runs', str(work/'runs'),
            '--results', str(work/'results')]
    sweeps = [subprocess.Popen(line, cwd=ROOT, env=environment('sweeps'), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL) for _ in range(2)]
    for process in sweeps:
        process.wait()
    records = list((work/'results').glob('*.json'))
    counts['two sweeps: all records once' if len(records) == 3 else f'two sweeps: {len(records)} records of 3'] += 1
    return counts


def disks(n, seed, folder):
    "A file system that fills up at different moments, and a folder that may not be written; then the same with room"
    counts = Counter()
    small = folder/'small'
    small.mkdir(parents=True)
    for kilobytes in (64, 300, 600, 900, 1200, 1800, 2500, 4000):
        mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'tmpfs', str(small)])
        if mounted.returncode:
            counts['not tried: tmpfs cannot be mounted here'] += 1
            break
        prepare(small)
        code, stderr = finish(small, 'full')
        if code == 0:
            counts['room enough'] += 1
        else:
            counts['full: one line' if said_one_line(stderr) else 'full: UNCLEAR'] += 1
            subprocess.run(['mount', '-o', 'remount,size=1g', str(small)], check=True)
            code, stderr = finish(small, 'room')
            counts['continued with room' if code == 0 else 'LOST'] += 1
        subprocess.run(['umount', str(small)], check=True)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1g', 'tmpfs', str(small)])
    prepare(small)
    if subprocess.run(['mount', '-o', 'remount,ro', str(small)]).returncode == 0:
        code, stderr = finish(small, 'readonly')
        counts['read-only: one line' if code and said_one_line(stderr) else 'read-only: UNCLEAR'] += 1
    subprocess.run(['umount', str(small)])
    return counts


PARTS = dict(kills=kills, races=races, disks=disks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=[*PARTS, 'inputs'])
    parser.add_argument('--n', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    if options.part == 'inputs':
        from damaged_inputs import inputs
        PARTS['inputs'] = inputs
    folder = Path(tempfile.mkdtemp(prefix='campaign-'))
    try:
        counts = PARTS[options.part](options.n, options.seed, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    width = max(map(len, counts))
    for name, count in counts.items():
        print(f'{name:{width}}  {count}')
    if any(word in name for name in counts for word in ('LOST', 'UNCLEAR', 'DIFFERENT', 'ORPHAN', 'HANG', 'TRACEBACK', 'LEFT')):
        raise SystemExit(1)


if __name__ == '__main__':
    main()
