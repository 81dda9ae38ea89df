"A training that is killed, at any moment, ends at the same numbers as one that was not."
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from itertools import cycle

import pytest
import safetensors.torch
import torch
from fastai.callback.core import Callback
from safetensors.torch import load_file

from fer_nr.ablation import RunSpec, build_learner, load_faces
from fer_nr.checkpoint import load_state, save_state
from fer_nr.files import remove_leftovers, write_json

SPEC = RunSpec(data='synthetic', limit=400, arch='swin_tiny_patch4_window7_224', img_size=64,
               arch_args=dict(window_size=4, embed_dim=16, depths=[1, 1], num_heads=[1, 2]),
               up='sr', up_size=96, down='ltr', head='mlp', loss='fpdls', lr=2e-3, layer_decay=1.,
               ema=.9, epochs=2, bs=32, drop_path=.1)
TINY = dict(data='synthetic', limit=200, img_size=32, loss='ce', lr=3e-3, ema=.9, epochs=2, bs=32,
            augment='none', layer_decay=1.)
RELABELLING = dict(
    scn=RunSpec(**TINY, arch='resnet10t', method='scn',
                method_args=dict(relabel_from=0., delta2=.02)),
    mvt=RunSpec(**TINY, arch='vit_tiny_patch16_224', arch_args=dict(depth=1), method='mvt',
                method_args=dict(relabel_from=0., delta2=.02, depth=1)))


class Moments(Callback):
    "Dies without a word at the `count`-th `moment`: of a batch, or while a file is written"
    order = 100

    def __init__(self, moment, count):
        self.moment, self.left = moment, count
        self.replace, self.save_file = os.replace, safetensors.torch.save_file
        os.replace, safetensors.torch.save_file = self.renamed, self.half

    def now(self, moment):
        self.left -= moment == self.moment
        if not self.left and moment == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def half(self, tensors, file, *args):
        "Write, and die with half of the file on the disk"
        self.save_file(tensors, file, *args)
        if self.moment == 'write':
            os.truncate(file, os.path.getsize(file)//2)
            self.now('write')
            self.save_file(tensors, file, *args)

    def renamed(self, *args):
        self.now('before rename')
        self.replace(*args)
        self.now('after rename')

    def after_backward(self):
        self.now('after backward')

    def after_step(self):
        self.now('after step')

    def before_validate(self):
        self.now('before validate')


def run(path, moment, count, spec):
    "A training; leaves its history without clocks in done.json"
    torch.set_num_threads(1)
    learn = build_learner(spec, load_faces(spec), path, device='cpu', seconds=0)
    learn.add_cb(Moments(moment, count))
    learn.fit_recipe(spec.epochs)
    clock = ('seconds', 'images_per_s')
    history = [{name: value for name, value in row.items() if name not in clock}
               for row in learn.checkpoint.history]
    write_json(path/'done.json', dict(history=history))


def train(path, moment='never', count=0, spec=SPEC):
    "Exit code of a training in a forked process, killed at the `count`-th `moment`"
    context = multiprocessing.get_context('fork')
    child = context.Process(target=run, args=(path, moment, count, spec))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('whole')
    assert train(path) == 0
    return path


writes = [('write', 2), ('before rename', 4), ('after rename', 3)]
steps = [('after backward', 7), ('after step', 3), ('before validate', 1), ('write', 1)]


@pytest.mark.parametrize('kills', [writes, steps], ids=['during writes', 'during steps'])
def test_killed_training_ends_the_same(whole, tmp_path, kills):
    for moment, count in kills:
        assert train(tmp_path, moment, count) == -signal.SIGKILL
    assert train(tmp_path) == 0
    assert (tmp_path/'done.json').read_text() == (whole/'done.json').read_text()
    best, expected = (load_file(path/'best.safetensors') for path in (tmp_path, whole))
    assert best.keys() == expected.keys()
    assert all(torch.equal(best[name], expected[name]) for name in best)
    assert not list(tmp_path.glob('.*.tmp'))


@pytest.mark.parametrize('spec', RELABELLING.values(), ids=RELABELLING)
def test_changed_labels_survive_a_kill_in_every_batch(spec, tmp_path):
    """Each process ends one or two batches and dies: before the step, or when labels have changed
    and their checkpoint is written but not yet in its place"""
    whole, path = tmp_path/'whole', tmp_path/'killed'
    for folder in (whole, path):
        folder.mkdir()
    assert train(whole, spec=spec) == 0
    given = load_faces(spec).train.labels
    moments, places, labels = cycle(['after backward', 'before rename']), set(), []
    while train(path, next(moments), 2, spec):
        tensors, meta = load_state(path/'checkpoint.safetensors')
        places.add((meta['epoch'], meta['batch']))
        labels.append(tensors['relabel.labels'])
    batches = len(given)//spec.bs
    assert len(places) >= 2*batches - 1, 'killed in every batch'
    assert (labels[0] != given).any() or (labels[2] != given).any(), 'from early on'
    assert len({tuple(some.tolist()) for some in labels}) > batches, 'and in most batches'
    ours, expected = (load_state(folder/'checkpoint.safetensors')[0] for folder in (path, whole))
    assert torch.equal(ours['relabel.labels'], expected['relabel.labels'])
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert (path/'done.json').read_text() == (whole/'done.json').read_text()


def test_full_disk_keeps_the_last_checkpoint(tmp_path):
    "A write that the disk refuses is one line, and the file of before is untouched"
    save_state(tmp_path/'c', dict(w=torch.ones(10)), dict(epoch=1))
    write_json(tmp_path/'r.json', dict(a=1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match='could not be written.*what was there before is kept'):
            save_state(tmp_path/'c', dict(w=torch.ones(100_000)), dict(epoch=2))
        with pytest.raises(OSError, match='could not be written'):
            write_json(tmp_path/'r.json', ['x'*10_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_state(tmp_path/'c')[1] == {'epoch': 1}
    assert json.loads((tmp_path/'r.json').read_text()) == {'a': 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ['c', 'r.json']


def test_leftovers_of_the_killed_are_removed(tmp_path):
    "Our own temporary files and those of safetensors, which is killed here while it writes"
    script = ('import os, sys, threading, torch; from fer_nr.files import save_tensors\n'
              'def watch():\n'
              '    while not [name for name in os.listdir(sys.argv[1]) if len(name) == 10]: pass\n'
              '    os.kill(os.getpid(), 9)\n'
              'threading.Thread(target=watch).start()\n'
              'while True: save_tensors(sys.argv[1] + "/c", dict(w=torch.ones(10**7)))')
    subprocess.run([sys.executable, '-c', script, str(tmp_path)])
    left = {path.name for path in tmp_path.iterdir()} - {'c'}
    assert any(name.startswith('.tmp') for name in left)
    (tmp_path/'.nfs0001').write_text('')
    remove_leftovers(tmp_path)
    assert left <= {path.name for path in tmp_path.iterdir()}  # they may be in use
    remove_leftovers(tmp_path, older_than=0)
    assert {path.name for path in tmp_path.iterdir()} - {'c'} == {'.nfs0001'}


def test_every_flipped_bit_is_noticed(tmp_path):
    "Header, digest, metadata, tensors: one line for a bit anywhere"
    file, damaged = tmp_path/'c', tmp_path/'damaged'
    save_state(file, dict(w=torch.randn(50), n=torch.arange(9)), dict(epoch=1, key='run'))
    content = file.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for bit in torch.randperm(8*len(content), generator=generator)[:300].tolist():
        changed = bytearray(content)
        changed[bit//8] ^= 1 << bit % 8
        damaged.write_bytes(changed)
        with pytest.raises(ValueError, match='delete it to start afresh') as found:
            load_state(damaged)
        assert '\n' not in str(found.value)


def test_files_of_before_the_digest_are_read(tmp_path):
    from safetensors.torch import save_file
    save_file(dict(w=torch.ones(2)), tmp_path/'old', dict(meta=json.dumps(dict(epoch=3))))
    tensors, meta = load_state(tmp_path/'old')
    assert meta == dict(epoch=3) and torch.equal(tensors['w'], torch.ones(2))
