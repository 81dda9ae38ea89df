"""What 05a_robustness and 06d_studies cannot show: colour images, corruptions made by hand, real
noise rates, the released recipe under a trace, a killed process"""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import chisquare

from fer_nr.ablation import RunSpec, load_faces
from fer_nr.data import FaceSet, synthetic
from fer_nr.robustness import (KINDS, corrupt, jpeg, label_noise, lowres, noise, occlude,
                               robustness, rotate, uniform)
from fer_nr.studies import trace_run


def random_faces(n=60, channels=3, side=40, k=7):
    r = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=r)
    labels = torch.randint(0, k, (n,), generator=r)
    vocab = tuple(f'c{i}' for i in range(k))
    return FaceSet(images, labels, None, [str(i) for i in range(n)], vocab)


@pytest.mark.parametrize('channels', (1, 3))
@pytest.mark.parametrize('kind', KINDS)
def test_any_channels_and_size_in_any_order(kind, channels):
    fs = random_faces(channels=channels)
    order, out = torch.randperm(len(fs)), corrupt(fs, kind, seed=3)
    assert out.images.dtype == torch.uint8 and out.images.shape == fs.images.shape
    assert not torch.equal(out.images, fs.images) and torch.equal(out.labels, fs.labels)
    assert torch.equal(corrupt(fs[order], kind, seed=3).images, out.images[order])


def test_averaging_against_pillow():
    x = synthetic(200).test.images
    half = [Image.fromarray(o[0].numpy()).resize((24, 24), Image.Resampling.BOX) for o in x]
    small = F.interpolate(x.float(), (24, 24), mode='area')
    boxed = torch.from_numpy(np.stack(half)).float()
    assert (small[:, 0]-boxed).abs().max() <= 1  # Pillow rounds rows, then columns
    back = F.interpolate(small, (48, 48), mode='bilinear')
    assert (lowres(x, 24).float()-back).abs().max() <= .51


def test_a_quarter_turn_against_torch():
    x, to_the_left = synthetic(200).test.images, set()
    for turned, face in zip(rotate(x, 90).int(), x.int()):
        off = {k: (turned-torch.rot90(face, k, (1, 2))).abs().max() for k in (1, -1)}
        assert min(off.values()) <= 1
        to_the_left.add(bool(off[1] <= 1))
    assert to_the_left == {True, False}, 'some to the left, some to the right'


def test_a_box_by_hand():
    x = synthetic(200).test.images
    rows_columns = (occlude(x, 'mouth') != x).flatten(0, 1).any(0).nonzero()
    assert rows_columns.min(0).values.tolist() >= [31, 11]
    assert rows_columns.max(0).values.tolist() <= [44, 37]


def test_jpeg_degrades_with_quality():
    x = synthetic(200).test.images
    error = [(jpeg(x, quality).float()-x).square().mean().item() for quality in (5, 10, 30, 90)]
    assert error == sorted(error, reverse=True)


def test_noise_has_its_size():
    grey = torch.full((1000, 1, 48, 48), 128, dtype=torch.uint8)
    grey[:, 0, 0, 0] = torch.arange(1000)//256  # no two alike
    grey[:, 0, 0, 1] = torch.arange(1000)%256
    z = (noise(grey, .1)[..., 1:, :].float()-128)/255
    assert abs(z.std()-.1) < .001 and abs(z.mean()) < .001
    assert abs(np.corrcoef(z[:-1].flatten(), z[1:].flatten())[0, 1]) < .01


@pytest.mark.parametrize('share', (0., .1, .3, 1.))
def test_wrong_labels_are_uniform_over_the_other_classes(share):
    fs = random_faces(n=7000, channels=1, side=4)
    out = label_noise(fs, share, seed=1)
    wrong = out.labels != fs.labels
    assert wrong.sum() == round(share*len(fs))
    if share:
        steps = torch.bincount((out.labels-fs.labels)[wrong]%7, minlength=7)[1:]
        assert chisquare(steps).pvalue > 1e-4
    all_wrong = label_noise(fs, 1., seed=1).labels
    assert torch.equal(label_noise(fs[:100], 1., seed=1).labels, all_wrong[:100])


def test_uniform_numbers_differ_between_seeds_and_images():
    x = random_faces(n=500).images
    u = torch.cat([uniform(x, 3, seed) for seed in range(3)])
    assert len(u.unique()) == u.numel() and abs(np.corrcoef(u.T.numpy())-np.eye(3)).max() < .1


def test_any_number_of_classes():
    "Predictions beyond 36 classes are kept too"
    class Fortieth(torch.nn.Module):
        def forward(self, x): return torch.eye(50)[torch.full((len(x),), 40)]
    fs = random_faces(n=3, k=50)
    assert robustness(Fortieth(), fs, ['12 px'])['12 px']['predictions'] == '40,40,40,'


def test_wrong_labels_reach_training_only():
    spec = RunSpec(data='synthetic', limit=400, label_noise=.2)
    right, wrong = load_faces(replace(spec, label_noise=0.)), load_faces(spec)
    assert (right.train.labels != wrong.train.labels).sum() == round(.2*len(right.train))
    assert right.test.fingerprint == wrong.test.fingerprint
    assert right.valid.fingerprint == wrong.valid.fingerprint


SPEC = dict(data='synthetic', limit=400, arch='test_resnet', img_size=48, head='mlp', loss='ce',
            recipe='authors', epochs=3, bs=16)
CODE = f'''import sys
from fer_nr.ablation import RunSpec
from fer_nr.studies import trace_run
trace_run(RunSpec(**{SPEC!r}), sys.argv[1], seconds=0)'''


def test_killed_trace_of_the_released_recipe_continues(tmp_path):
    "A process is killed after an epoch; the trace that another completes is that of a whole one"
    whole = trace_run(RunSpec(**SPEC), tmp_path/'whole')
    env = os.environ | dict(OMP_NUM_THREADS=str(torch.get_num_threads()), PYTHONWARNINGS='ignore')
    process = subprocess.Popen([sys.executable, '-c', CODE, tmp_path/'cut'], env=env,
                               stdout=subprocess.DEVNULL)
    file = tmp_path/'cut/trace.json'
    while process.poll() is None and not file.exists():
        time.sleep(.02)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(json.loads(file.read_text())['epochs']) < 3
    assert trace_run(RunSpec(**SPEC), tmp_path/'cut')['epochs'] == whole['epochs']
    epochs = whole['epochs']
    assert len({o['test'] for o in epochs} | {o['augmented'] for o in epochs}) > 3
