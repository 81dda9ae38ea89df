"Whole backbones, weight files as they come from outside, and the faults that they may have."
import os, subprocess, sys
import pytest, timm, torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from fer_nr.backbone import ARCHS, fer_model, load_model, load_weights, param_groups, save_weights
from fer_nr.resizer import FrozenUpscale, LearnedDownscale, NeuralResizer, RFDN

TINY = 'vit_tiny_patch16_224'
x = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
count = lambda m: sum(p.numel() for p in m.parameters())

def python(code, **env):
    "What `code` prints in a fresh interpreter"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | env, timeout=600)
    assert r.returncode==0, r.stderr[-2000:]
    return r.stdout.strip()

def test_light_imports():
    "resizer, loss and backbone serve plain PyTorch code: no fastai, notebook or plotting library comes with them"
    heavy = python('import sys, fer_nr.resizer, fer_nr.loss, fer_nr.backbone; print(*sorted({o.partition(".")[0] for o in sys.modules} & {"fastai", "IPython", "matplotlib", "nbdev"}))')
    assert heavy==''

# ---- each backbone behind each resizer

RESIZERS = dict(
    vanilla=lambda: None,
    bicubic=lambda: NeuralResizer('bicubic', down='none', up_size=32, size=32),
    ltr=lambda: NeuralResizer('bilinear', up_size=64, size=32),
    sr=lambda: NeuralResizer('sr', down='bicubic', up_size=64, size=32, in_chans=1),
    sr_ltr=lambda: NeuralResizer('sr', up_size=64, size=32),
    images_stn_ltr=lambda: NeuralResizer('images', stn=True, up_size=48, size=32),
    rfdn_ltr=lambda: NeuralResizer(FrozenUpscale(RFDN(nf=8, scale=2), 2), up_size=96, size=32))

@pytest.mark.parametrize('name', ARCHS)
def test_every_backbone_behind_every_resizer(name):
    "Full depth; 32 px, the smallest that all of them take. Each trainable parameter gets a finite gradient"
    m = fer_model(ARCHS[name], img_size=32, head='linear')
    vanilla = m.resizer
    for k,r in RESIZERS.items():
        m.resizer = r() or vanilla
        m.train().zero_grad()
        logits = m(x)
        F.cross_entropy(logits, torch.tensor([0, 7])).backward()
        assert logits.shape==(2, 8), k
        wrong = [n for n,p in m.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())]
        assert not wrong, (k, wrong[:5])

@pytest.mark.parametrize('name', ARCHS)
def test_groups_cover_every_parameter_once(name):
    with torch.device('meta'): m = fer_model(ARCHS[name], NeuralResizer(up_size=64, size=32))
    groups = param_groups(m, .1, .75)
    ids = [id(p) for g in groups for p in g['params']]
    assert sorted(ids)==sorted(id(p) for p in m.parameters())
    of = {id(p):g for g in groups for p in g['params']}
    assert {of[id(p)]['lr_scale'] for part in (m.resizer, m.head) for p in part.parameters()}=={1.}
    for n,p in m.named_parameters():
        free = p.ndim<2 or n.endswith('.bias') or any(k in n for k in ('pos_embed', 'cls_token', 'relative_position_bias_table', 'temperature'))
        assert of[id(p)]['weight_decay']==(0 if free else .1), n
    scale = lambda *ns: [of[id(p)]['lr_scale'] for n,p in m.trunk.named_parameters() if n.startswith(ns)]
    assert max(scale(''))==pytest.approx(.75) and max(scale('patch_embed'))==min(scale(''))
    assert set(scale('norm'))=={max(scale(''))} # the last norm moves with the last block

def test_released_parameter_count():
    with torch.device('meta'):
        assert count(fer_model(ARCHS['Swin-B'], NeuralResizer('images', stn=True)))==89_997_139
        assert count(fer_model(ARCHS['Swin-B'], NeuralResizer('bilinear', stn=True)))==89_997_139

@pytest.mark.parametrize('arch', ['resnet18', 'convnext_atto', 'mobilenetv3_small_050', 'cait_xxs24_224', 'deit_tiny_distilled_patch16_224'])
def test_other_timm_models(arch):
    "Convolutional ones take any size; the pooled width is not always `num_features`"
    m = fer_model(arch, NeuralResizer('bilinear', down='none', up_size=64, size=64), n_classes=5).eval()
    assert m(x).shape==(2, 5)
    ids = [id(p) for g in param_groups(m, layer_decay=.9) for p in g['params']]
    assert sorted(ids)==sorted(id(p) for p in m.parameters())

# ---- how it computes

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return fer_model(TINY, NeuralResizer('sr', stn=True, up_size=64, size=32), depth=2, drop_path=.2).eval()

def test_evaluation_ignores_the_batch(model):
    xs = torch.rand(5, 1, 48, 48)
    with torch.no_grad(): assert torch.allclose(model(xs)[3], model(xs[3:4])[0], atol=1e-5)

def test_colour_and_size(model):
    "A grey face and the same as three equal channels, 48 px or others"
    with torch.no_grad():
        assert torch.allclose(model(x), model(x.expand(-1, 3, -1, -1)), atol=1e-5)
        assert model(torch.rand(2, 3, 100, 100)).shape==(2, 8)

def test_half_precision_and_channels_last(model):
    with torch.no_grad():
        ref = model(x)
        assert torch.allclose(model(x.contiguous(memory_format=torch.channels_last)), ref, atol=1e-4)
        with torch.autocast('cpu', torch.bfloat16): assert (model(x)-ref).abs().max()<.1*ref.abs().max()+.05

def test_export(model):
    program = torch.export.export(model, (x,)).module()
    with torch.no_grad(): assert torch.allclose(program(x), model(x), atol=1e-5)

def test_augment_reaches_the_resizer():
    class Dark(nn.Module):
        def forward(self, x, size=None): return torch.zeros(*x.shape[:2], size or x.shape[-2], size or x.shape[-1])
    m = fer_model(TINY, img_size=32, depth=1, augment=Dark())
    assert isinstance(m.resizer.augment, Dark) and m.resizer.train()(x).max()==0 and m.resizer.eval()(x).max()>0

# ---- weights from outside

def source(arch, path, **kw):
    "A weight file as timm publishes it, classifier included"
    torch.manual_seed(1)
    m = timm.create_model(arch, **kw)
    for p in m.parameters(): nn.init.normal_(p, std=.02)
    save_file(m.state_dict(), path)
    return m

@pytest.mark.parametrize('arch,kw,sizes', [(TINY, dict(depth=2), (224, 112, 96)), ('convit_tiny', dict(depth=2, local_up_to_layer=1), (224, 112)),
    ('xcit_nano_12_p16_224', dict(depth=2), (224, 96)), ('swin_tiny_patch4_window7_224', dict(depths=(1, 1, 1, 1)), (224, 112, 96)),
    ('deit_tiny_distilled_patch16_224', dict(depth=1), (224, 112)), ('resnet18', {}, (224, 64)), ('swinv2_cr_tiny_ns_224', dict(depths=(1, 1, 1, 1)), (224,)), ('mobilenetv3_small_050', {}, (224,))])
def test_file_fits(tmp_path, arch, kw, sizes):
    "At the file's own size all tensors are the file's; at another only the tables of positions differ"
    src = source(arch, tmp_path/'w.safetensors', **kw).state_dict()
    for size in sizes:
        own = fer_model(arch, weights=tmp_path/'w.safetensors', img_size=size, **kw).trunk.state_dict()
        differ = {k.split('.')[-1] for k,v in own.items() if not (src[k].shape==v.shape and torch.equal(src[k], v))}
        assert differ <= (set() if size==224 else {'pos_embed', 'relative_position_bias_table'})

@pytest.mark.parametrize('arch,kw', [(TINY, dict(depth=2)), ('swin_tiny_patch4_window7_224', dict(depths=(1, 1, 1, 1))), ('convnext_atto', {}), ('deit_tiny_distilled_patch16_224', dict(depth=1))])
@pytest.mark.parametrize('classes', [0, 7, 1000])
def test_same_as_timm(tmp_path, arch, kw, classes):
    "A file with ImageNet's classifier, another one or none"
    src = source(arch, tmp_path/'w.safetensors', num_classes=classes, **kw).eval()
    src.reset_classifier(0)
    m = fer_model(arch, weights=tmp_path/'w.safetensors', img_size=224, **kw).eval()
    z = torch.rand(1, 3, 224, 224)
    with torch.no_grad(): assert torch.equal(m.features(z), src((z-m.mean)/m.std))

@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: dict(model=s, epoch=3), lambda s: dict(state_dict={f'module.{k}':v for k,v in s.items()})])
def test_pth(tmp_path, wrap):
    src = timm.create_model(TINY, depth=1)
    torch.save(wrap(src.state_dict()), tmp_path/'w.pth')
    assert torch.equal(fer_model(TINY, weights=tmp_path/'w.pth', depth=1).trunk.norm.weight, src.norm.weight)

def test_original_swin_names(tmp_path):
    "Microsoft's release: downsampling at the end of a stage, buffers in the file, a classifier without `fc`"
    kw = dict(depths=(1, 1, 1, 1))
    src = timm.create_model('swin_tiny_patch4_window7_224', **kw)
    sd = {}
    for k,v in src.state_dict().items():
        for i in (1, 2, 3): k = k.replace(f'layers.{i}.downsample', f'layers.{i-1}.downsample') if f'layers.{i}.downsample' in k else k
        sd[k.replace('head.fc.', 'head.')] = v
    sd['layers.0.blocks.0.attn.relative_position_index'] = torch.zeros(49, 49, dtype=torch.long)
    torch.save(dict(model=sd), tmp_path/'swin.pth')
    m = fer_model('swin_tiny_patch4_window7_224', weights=tmp_path/'swin.pth', **kw)
    assert all(torch.equal(v, src.state_dict()[k]) for k,v in m.trunk.state_dict().items())

def test_nothing_in_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self): return open, (str(tmp_path/'owned'), 'w')
    torch.save(dict(model=Evil()), tmp_path/'evil.pth')
    with pytest.raises(ValueError, match='holds tensors and no other objects'): fer_model(TINY, weights=tmp_path/'evil.pth')
    assert not (tmp_path/'owned').exists()

def one_line(e, *words):
    "The message is one line of decent length with these words in it"
    s = str(e.value)
    assert '\n' not in s and len(s)<700 and all(w in s for w in words), s

@pytest.mark.parametrize('call,error,words', [
    (dict(arch='vit_tny_patch16_224'), ValueError, ["no model 'vit_tny_patch16_224'", 'near matches: vit_tiny_patch16_224']),
    (dict(arch='hf-hub:someone/model'), ValueError, ['no model']),
    (dict(arch='swin_small_patch4_window7_224.in1k'), ValueError, ["no weights tagged 'in1k'", 'ms_in1k']),
    (dict(arch=TINY, img_size=100), ValueError, ['patches of 16 px', 'take 96 or 112']),
    (dict(arch='xcit_nano_12_p16_224', img_size=100), ValueError, ['img_size=100']),
    (dict(arch='swin_tiny_patch4_window7_224', img_size=30), ValueError, ['take 28 or 32']),
    (dict(arch='resnet18', deepness=3), ValueError, ['deepness=3']),
    (dict(arch=TINY, head='big'), ValueError, ["head='big'", "'mlp' or 'linear'"]),
    (dict(arch=TINY, n_classes=1), ValueError, ['n_classes=1']),
    (dict(arch=TINY, pretrained=True, weights='a.pth'), ValueError, ['give one of them']),
    (dict(arch=TINY, weights='nowhere/a.pth'), FileNotFoundError, ['nor is there a folder nowhere']),
    (dict(arch='vit_small_patch16_36x1_224', pretrained=True), ValueError, ['publishes no weights'])])
def test_bad_requests(call, error, words):
    with pytest.raises(error) as e: fer_model(**call)
    one_line(e, *words)

@pytest.mark.parametrize('arch,kw,words', [
    (TINY, dict(depth=4), ['24 missing (blocks.2.norm1.weight']), (TINY, dict(depth=1), ['12 unknown (blocks.1.']),
    ('deit_tiny_distilled_patch16_224', dict(depth=2), ['missing (dist_token', 'another architecture']),
    ('vit_small_patch16_224', dict(depth=2), ['of another shape (cls_token 1×1×192 for 1×1×384']),
    (TINY, dict(depth=2, patch_size=32), ['192×3×16×16 for 192×3×32×32']),
    ('convit_tiny', dict(depth=2), ['missing']), ('swin_tiny_patch4_window7_224', dict(depths=(1, 1, 1, 1)), ['missing', 'unknown']), ('resnet18', {}, ['missing'])])
def test_file_of_another_model(tmp_path, arch, kw, words):
    source(TINY, tmp_path/'w.safetensors', depth=2)
    with pytest.raises(ValueError) as e: fer_model(arch, weights=tmp_path/'w.safetensors', **kw)
    one_line(e, 'w.safetensors does not fit', *words)

@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
def test_damaged_files(tmp_path, suffix):
    src,path = timm.create_model(TINY, depth=1).state_dict(), tmp_path/f'w.{suffix}'
    save_file(src, path) if suffix=='safetensors' else torch.save(src, path)
    whole = path.read_bytes()
    for data in (b'', whole[:100], whole[:-1000], b'<html>not found</html>'):
        path.write_bytes(data)
        with pytest.raises(ValueError) as e: fer_model(TINY, weights=path, depth=1)
        one_line(e, f'w.{suffix} ({len(data):,} bytes) cannot be read')

HUB = '''
from fer_nr.backbone import fer_model
for arch,kw in ({tiny!r}, dict(depth=1)), ('convit_tiny', dict(depth=2, local_up_to_layer=1)):
    t = fer_model(arch, pretrained=True, img_size=112, **kw).trunk
    print(arch, t.norm.weight.sum().item(), t.pos_embed.shape[1])
    try: fer_model(arch, pretrained=True, cache_dir={empty!r}, **kw)
    except ConnectionError as e: print(e)'''

def test_hub(tmp_path):
    "`pretrained=True` through a hub cache that holds files of ours, and without network or cache"
    norms = {}
    for arch,kw in (TINY, dict(depth=1)), ('convit_tiny', dict(depth=2, local_up_to_layer=1)):
        folder = tmp_path/f'hub/models--timm--{arch}.{timm.get_pretrained_cfg(arch).tag}'
        snap = folder/'snapshots'/('0'*40)
        snap.mkdir(parents=True); (folder/'refs').mkdir(); (folder/'refs'/'main').write_text('0'*40)
        norms[arch] = source(arch, snap/'model.safetensors', **kw).norm.weight.sum().item()
    out = python(HUB.format(tiny=TINY, empty=str(tmp_path/'empty')), HF_HUB_OFFLINE='1', HF_HUB_CACHE=str(tmp_path/'hub')).splitlines()
    assert len(out)==4
    for (loaded,failed),(arch,norm),tokens in zip((out[:2], out[2:]), norms.items(), (50, 49)): # 7*7 patches, and ViT's class token
        assert loaded.split()[0]==arch and float(loaded.split()[1])==pytest.approx(norm, rel=1e-4) and int(loaded.split()[2])==tokens
        assert failed.startswith(f'the weights of {arch} cannot be fetched from timm/') and 'weights=PATH' in failed

@pytest.mark.parametrize('size', [224, 112, 96])
def test_real_weights(weights, size):
    "All tensors of the real ViT-Ti arrive; at smaller sizes only the position embedding is resampled, as timm does it"
    path = weights/f'{TINY}.safetensors'
    file = load_file(path)
    m = fer_model(TINY, NeuralResizer('bilinear', up_size=2*size, size=size), weights=path).eval()
    own = m.trunk.state_dict()
    assert own.keys()==file.keys()-{'head.weight', 'head.bias'}
    assert {k for k,v in own.items() if not torch.equal(file[k], v) if k!='pos_embed'}==set()
    assert torch.equal(own['pos_embed'], file['pos_embed'])==(size==224)
    theirs = timm.create_model(TINY, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), num_classes=0, img_size=size).eval()
    z = torch.rand(1, 3, size, size)
    with torch.no_grad(): assert torch.equal(m.trunk(z), theirs(z))
    assert m.mean.flatten().tolist()==m.std.flatten().tolist()==[.5]*3

# ---- to a file and back

@pytest.mark.parametrize('k', [k for k in RESIZERS if k!='rfdn_ltr'])
@pytest.mark.parametrize('head', ['mlp', 'linear'])
def test_round_trip(tmp_path, k, head):
    m = fer_model(TINY, RESIZERS[k](), img_size=32, head=head, n_classes=3, depth=1, drop_path=.1)
    m.train()(x) # batch norm's statistics move
    save_weights(m, tmp_path/'m.safetensors', dict(vocab=['a', 'b', 'ç']))
    n = load_model(tmp_path/'m.safetensors')
    assert not n.training and n.meta==dict(vocab=['a', 'b', 'ç'])
    with torch.no_grad(): assert torch.equal(n(x), m.eval()(x))
    assert n.trunk.blocks[0].drop_path1.__class__==m.trunk.blocks[0].drop_path1.__class__

def test_own_modules_must_be_brought(tmp_path):
    torch.manual_seed(0)
    for r in (RESIZERS['rfdn_ltr'], lambda: NeuralResizer('bilinear', down=LearnedDownscale(n=8, size=32), up_size=64, size=32)):
        m = fer_model(TINY, r(), depth=1).eval()
        save_weights(m, tmp_path/'m.safetensors')
        with pytest.raises(ValueError) as e: load_model(tmp_path/'m.safetensors')
        one_line(e, 'give resizer=')
        with torch.no_grad(): assert torch.equal(load_model(tmp_path/'m.safetensors', r())(x), m(x))

def test_augment_is_not_part_of_the_file(tmp_path):
    aug = nn.BatchNorm2d(1) # any module with parameters
    m = fer_model(TINY, img_size=32, depth=1, augment=aug)
    save_weights(m, tmp_path/'m.safetensors')
    assert load_model(tmp_path/'m.safetensors').resizer.augment is None
    assert load_weights(m, tmp_path/'m.safetensors')=={}

def test_trunk_for_the_next_model(tmp_path):
    m = fer_model(TINY, NeuralResizer(up_size=64, size=32), depth=1, n_classes=7)
    save_weights(m, tmp_path/'m.safetensors')
    n = fer_model(TINY, weights=tmp_path/'m.safetensors', img_size=48, depth=1)
    assert torch.equal(n.trunk.blocks[0].mlp.fc1.weight, m.trunk.blocks[0].mlp.fc1.weight) and n.trunk.pos_embed.shape[1]==10

def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    m = fer_model(TINY, img_size=32, depth=1)
    path = save_weights(m, tmp_path/'m.safetensors')
    before = path.read_bytes()
    def breaks(sd, p, *a): p.write_bytes(b'half'); raise OSError('disk full')
    monkeypatch.setattr('fer_nr.backbone.save_file', breaks)
    with pytest.raises(OSError, match='disk full'): save_weights(m, path)
    assert path.read_bytes()==before and [p.name for p in tmp_path.iterdir()]==['m.safetensors']

def test_wrapped_models_are_saved_bare(tmp_path):
    m = fer_model(TINY, img_size=32, depth=1)
    save_weights(torch.compile(m), tmp_path/'c.safetensors'); save_weights(nn.DataParallel(m), tmp_path/'p.safetensors'); save_weights(m, tmp_path/'m.safetensors')
    assert (tmp_path/'c.safetensors').read_bytes()==(tmp_path/'p.safetensors').read_bytes()==(tmp_path/'m.safetensors').read_bytes()

def test_files_that_do_not_load(tmp_path):
    m = fer_model(TINY, img_size=32, depth=1)
    path = save_weights(m, tmp_path/'m.safetensors')
    save_file({'w': torch.ones(2)}, tmp_path/'other.safetensors')
    (tmp_path/'half.safetensors').write_bytes(path.read_bytes()[:5000])
    for f,(error,words) in {'n.safetensors': (FileNotFoundError, ['beside it', 'm.safetensors']), 'other.safetensors': (ValueError, ['was not written by save_weights']),
                            'half.safetensors': (ValueError, ['no whole safetensors file'])}.items():
        with pytest.raises(error) as e: load_model(tmp_path/f)
        one_line(e, f, *words)
    with pytest.raises(ValueError) as e: load_weights(fer_model(TINY, img_size=32, depth=2), path)
    one_line(e, 'does not fit this model', '12 missing')
