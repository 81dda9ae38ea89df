"What 05a_robustness and 06a_studies cannot show: colour images, hand-made corruptions, real noise rates, the released recipe under a trace, a killed process."
import json, os, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image
from scipy.stats import chisquare

from fer_nr.ablation import RunSpec
from fer_nr.data import FaceSet, synthetic
from fer_nr.robustness import KINDS, corrupt, jpeg, label_noise, lowres, noise, occlude, rotate, uniform
from fer_nr.studies import trace_run

def random_faces(n=60, c=3, side=40, k=7, seed=0):
    r = torch.Generator().manual_seed(seed)
    return FaceSet(torch.randint(0, 256, (n,c,side,side), dtype=torch.uint8, generator=r), torch.randint(0, k, (n,), generator=r), None, [str(i) for i in range(n)], tuple(f'c{i}' for i in range(k)))

@pytest.mark.parametrize('c', (1, 3))
@pytest.mark.parametrize('kind', KINDS)
def test_any_channels_and_size_in_any_order(kind, c):
    fs = random_faces(c=c); order = torch.randperm(len(fs))
    out = corrupt(fs, kind, seed=3)
    assert out.images.dtype==torch.uint8 and out.images.shape==fs.images.shape and not torch.equal(out.images, fs.images)
    assert torch.equal(corrupt(fs[order], kind, seed=3).images, out.images[order]) and torch.equal(out.labels, fs.labels)

def test_against_other_implementations():
    "Averaging and JPEG by Pillow, a quarter turn by torch, one box by hand"
    x = synthetic(200).test.images
    boxed = [np.asarray(Image.fromarray(o[0].numpy()).resize((24,24), Image.Resampling.BOX)) for o in x]
    small = torch.nn.functional.interpolate(x.float(), (24,24), mode='area')[:,0]
    assert (small-torch.from_numpy(np.stack(boxed)).float()).abs().max()<=1 # Pillow rounds rows, then columns
    assert (lowres(x, 24).float()-torch.nn.functional.interpolate(small[:,None], (48,48), mode='bilinear')).abs().max()<=.51
    turned = rotate(x, 90)
    for a,b in zip(turned, x): assert min((a.int()-torch.rot90(b, k, (1,2)).int()).abs().max() for k in (1,-1))<=1
    assert len({torch.equal(a, torch.rot90(b, 1, (1,2))) for a,b in zip(turned, x)})==2, 'some to the left, some to the right'
    hidden = occlude(x, 'mouth'); i = (hidden!=x).flatten(0,1).any(0).nonzero()
    assert i.min(0).values.tolist()>=[31,11] and i.max(0).values.tolist()<=[44,37]

def test_jpeg_degrades_with_quality_and_noise_has_its_size():
    x = synthetic(200).test.images
    err = [(jpeg(x, q).float()-x).square().mean().item() for q in (5, 10, 30, 90)]
    assert err==sorted(err, reverse=True)
    grey = torch.arange(1000).remainder(256).add(0).view(-1,1,1,1).expand(-1,1,48,48).clone(); grey[:,0,0,0] = torch.arange(1000)//256; grey[...,1:,:] = 128
    z = (noise(grey.byte(), .1)[...,1:,:].float()-128)/255
    assert abs(z.std()-.1)<.001 and abs(z.mean())<.001 and abs(np.corrcoef(z[:-1].flatten(), z[1:].flatten())[0,1])<.01

@pytest.mark.parametrize('share', (0., .1, .3, 1.))
def test_wrong_labels_are_uniform_over_the_other_classes(share):
    fs = random_faces(n=7000, c=1, side=4)
    out = label_noise(fs, share, seed=1); wrong = out.labels!=fs.labels
    assert wrong.sum()==round(share*len(fs))
    if share: assert chisquare(torch.bincount((out.labels-fs.labels)[wrong]%7, minlength=7)[1:]).pvalue>1e-4
    assert torch.equal(label_noise(fs[:100], 1., seed=1).labels, label_noise(fs, 1., seed=1).labels[:100])

def test_uniform_numbers_differ_between_seeds_and_images():
    x = random_faces(n=500).images
    u = torch.cat([uniform(x, 3, s) for s in range(3)])
    assert len(u.unique())==u.numel() and abs(np.corrcoef(u.T.numpy())-np.eye(3)).max()<.1

def test_wrong_labels_reach_training_only(tmp_path):
    from fer_nr.ablation import load_faces
    spec = RunSpec(data='synthetic', limit=400, label_noise=.2)
    a,b = load_faces(replace(spec, label_noise=0.)),load_faces(spec)
    assert (a.train.labels!=b.train.labels).sum()==round(.2*len(a.train)) and a.test.fingerprint==b.test.fingerprint and a.valid.fingerprint==b.valid.fingerprint

SPEC = dict(data='synthetic', limit=400, arch='test_resnet', img_size=48, head='mlp', loss='ce', recipe='authors', epochs=3, bs=16)
CODE = '''import sys; from fer_nr.ablation import RunSpec; from fer_nr.studies import trace_run
trace_run(RunSpec(**%r), sys.argv[1], seconds=0)''' % SPEC

def test_killed_trace_of_the_released_recipe_continues(tmp_path):
    "A process is killed after its first epoch; the trace that another one completes is that of one that never stopped"
    whole = trace_run(RunSpec(**SPEC), tmp_path/'whole')
    env = os.environ|dict(OMP_NUM_THREADS=str(torch.get_num_threads()), PYTHONWARNINGS='ignore')
    p = subprocess.Popen([sys.executable, '-c', CODE, tmp_path/'cut'], env=env, stdout=subprocess.DEVNULL)
    file = tmp_path/'cut/trace.json'
    while p.poll() is None and not file.exists(): time.sleep(.02)
    assert p.poll() is None
    p.send_signal(signal.SIGKILL); p.wait()
    assert len(json.loads(file.read_text())['epochs'])<3
    assert trace_run(RunSpec(**SPEC), tmp_path/'cut')['epochs']==whole['epochs']
    assert len({o['test'] for o in whole['epochs']}|{o['augmented'] for o in whole['epochs']})>3
