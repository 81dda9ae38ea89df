"A training that is killed, at any moment and during a write, ends at the same numbers as one that was not."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest, torch
from safetensors.torch import load_file

SCRIPT = '''
import os, signal, sys, warnings; warnings.simplefilter('ignore')
path, moment, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
import torch, fer_nr.training as T
from fer_nr.ablation import RunSpec, build_learner, load_faces
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
n = 0
def now(at):
    global n
    if at!=moment: return
    n += 1
    if n==count: kill()
save_file, replace = T.save_file, os.replace
def half(tensors, f, *args):                    # dies with half a file on the disk
    save_file(tensors, f, *args)
    if moment=='write':
        size = os.path.getsize(f); os.truncate(f, size//2)
    now('write')
    if moment=='write': save_file(tensors, f, *args)
T.save_file = half
def late(a, b): now('before rename'); replace(a, b); now('after rename')
os.replace = late
spec = RunSpec(data='synthetic', limit=400, arch='swin_tiny_patch4_window7_224', arch_args=dict(window_size=4, embed_dim=16, depths=[1,1], num_heads=[1,2]),
    img_size=64, up='sr', up_size=96, down='ltr', head='mlp', loss='fpdls', lr=2e-3, layer_decay=1., ema=.9, epochs=2, bs=32, drop_path=.1)
class Batch(T.Callback):
    order = 100
    def after_backward(self): now('after backward')
    def after_step(self): now('after step')
    def before_validate(self): now('before validate')
learn = build_learner(spec, load_faces(spec), path, device='cpu', seconds=0)
learn.add_cb(Batch())
learn.fit_recipe(spec.epochs)
T.write_json(os.path.join(path, 'done.json'), [{k:v for k,v in h.items() if k not in ('seconds','images_per_s')} for h in learn.checkpoint.history])
'''

def train(path, moment='never', count=0):
    "Exit code of a training in its own process, killed at the `count`-th `moment`"
    r = subprocess.run([sys.executable, '-c', SCRIPT, str(path), moment, str(count)], capture_output=True, text=True, env=os.environ|dict(OMP_NUM_THREADS='1'))
    assert r.returncode in (0, -signal.SIGKILL), r.stderr[-2000:]
    return r.returncode

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('whole'); assert train(path)==0
    return path

@pytest.mark.parametrize('kills', [
    [('write', 2), ('before rename', 4), ('after rename', 3)],
    [('after backward', 7), ('after step', 3), ('before validate', 1), ('write', 1)]], ids=['during writes', 'during steps'])
def test_killed_training_ends_the_same(whole, tmp_path, kills):
    for moment,count in kills: assert train(tmp_path, moment, count)==-signal.SIGKILL
    assert train(tmp_path)==0
    assert json.loads((tmp_path/'done.json').read_text())==json.loads((whole/'done.json').read_text())
    a,b = (load_file(p/'best.safetensors') for p in (whole, tmp_path))
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert not list(tmp_path.glob('.*.tmp'))

def test_full_disk_keeps_the_last_checkpoint(tmp_path):
    "A write that the disk refuses is one line, and the file of before is untouched"
    import resource
    from fer_nr.training import load_state, save_state, write_json
    save_state(tmp_path/'c', dict(w=torch.ones(10)), dict(epoch=1)); write_json(tmp_path/'r.json', dict(a=1))
    soft,hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match='could not be written.*what was there before is kept'): save_state(tmp_path/'c', dict(w=torch.ones(100_000)), dict(epoch=2))
        with pytest.raises(OSError, match='could not be written'): write_json(tmp_path/'r.json', ['x'*10_000])
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_state(tmp_path/'c')[1]=={'epoch': 1} and json.loads((tmp_path/'r.json').read_text())=={'a': 1}
    assert sorted(p.name for p in tmp_path.iterdir())==['c','r.json']

def test_only_the_released_evaluation_is_random():
    "Recipe `authors` evaluates on augmented test images, twice differently; recipe `clean` on the images as they are"
    from fer_nr.ablation import RunSpec, build_learner, load_faces
    small = dict(data='synthetic', limit=200, arch='swin_tiny_patch4_window7_224', arch_args=dict(window_size=4, embed_dim=16, depths=[1], num_heads=[1]), img_size=64)
    def losses(**kw):
        spec = RunSpec(**small, **kw); learn = build_learner(spec, load_faces(spec), device='cpu')
        with learn.no_bar(): return learn.validate()[0], learn.validate()[0], spec, learn
    a,b,spec,learn = losses(recipe='authors', protocol='authors')
    assert a!=b and learn.dls.valid.dataset.fingerprint==load_faces(spec).test.fingerprint
    a,b,spec,learn = losses()
    assert a==b and learn.dls.valid.dataset.fingerprint==load_faces(spec).valid.fingerprint
