"Two processes train like one, also if they are killed; what goes wrong in one is one line."
import os
import subprocess
import time

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from fer_nr.checkpoint import load_state
from fer_nr.results import records
from fer_nr.runs import run
from fer_nr.spec import RunSpec
from test_runs import BIN, ROOT

ENV = os.environ | dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
# no batch norm: torch synchronises it on GPUs only
SETTINGS = dict(data='synthetic', limit=300, arch='vit_tiny_patch16_224', img_size=64,
                arch_args=dict(embed_dim=32, depth=2, num_heads=2), head='linear', loss='fpdls', lr=2e-3,
                layer_decay=1., ema=.9, bf16=False, augment='none', epochs=8, bs=32)


def start(folder, **change):
    "`fer_nr_run` with two processes, and its runs in `folder`"
    (folder/'two.yaml').write_text(yaml.safe_dump(SETTINGS | change))
    args = [BIN/'fer_nr_run', folder/'two.yaml', '--runs', folder/'two', '--processes', '2']
    return subprocess.Popen(args, cwd=ROOT, env=ENV, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def history(folder):
    "What the checkpoint of a run tells of its epochs; waits for the first"
    file, end = folder/'checkpoint.safetensors', time.time()+300
    while time.time() < end:
        told = load_state(file)[1]['history'] if file.exists() else []
        if told:
            return told
        time.sleep(.05)
    raise TimeoutError('no epoch in 300 s')


def family_of(process):
    "All processes below one, and those of them that train"
    family = psutil.Process(process.pid).children(recursive=True)
    lines = {child: ' '.join(child.cmdline()) for child in family if child.is_running()}
    trainers = [child for child, line in lines.items()
                if 'fer_nr.distributed' in line and 'torch.distributed.run' not in line]
    kernel, = [child for child, line in lines.items() if 'ipykernel_launcher' in line]
    return family, trainers, kernel


def test_two_processes_train_like_one(tmp_path, monkeypatch):
    "Same batches, same order; killed in between, nobody goes on alone, and the command continues"
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    spec = RunSpec(**SETTINGS)
    one = run(spec, tmp_path/'one', show=False)
    process = start(tmp_path)
    before = history(tmp_path/'two'/spec.id)
    family, trainers, kernel = family_of(process)
    kernel.kill()
    process.communicate(timeout=120)
    assert len(trainers) == 2 and not psutil.wait_procs(family, timeout=30)[1]
    again = start(tmp_path)
    _, err = again.communicate()
    assert again.returncode == 0, err
    two, = records(tmp_path/'two')
    assert two['processes'] == 2 and two['history'][:len(before)] == before
    first, second = (load_file(tmp_path/name/spec.id/'best.safetensors') for name in ('one', 'two'))
    assert max((first[name]-second[name]).abs().max().item() for name in first) < 1e-3
    assert one['predictions'] == two['predictions']
    for row, other in zip(one['history'], two['history'], strict=True):
        assert row['top1'] == other['top1']
        assert row['valid_loss'] == pytest.approx(other['valid_loss'], abs=1e-4)


def test_trouble_in_a_process_is_one_line(tmp_path):
    "What a process raises is what the command says"
    process = start(tmp_path, lr=1e9, ema=0.)
    _, err = process.communicate()
    said = [line for line in err.splitlines() if line.startswith('fer_nr:')]
    assert process.returncode == 1 and len(said) == 1 and 'Traceback' not in err, err
    assert 'FloatingPointError' in said[0]
