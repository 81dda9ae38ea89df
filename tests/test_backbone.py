"Whole backbones, weight files as they come from outside, and the faults that they may have"
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from fer_nr.backbone import (ARCHS, fer_model, load_model, load_weights, misfit, param_groups,
                             save_weights)
from fer_nr.resizer import RFDN, FrozenUpscale, LearnedDownscale, NeuralResizer

TINY = 'vit_tiny_patch16_224'
x = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))


def python(code, **env):
    "What `code` prints in a fresh interpreter"
    process = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                             env=os.environ | env, timeout=600)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout.strip()


def one_line(error, *words):
    "The message is one line of decent length with these words in it"
    text = str(error.value)
    assert '\n' not in text and len(text) < 700 and all(word in text for word in words), text


def small(**kwargs):
    "A model of one block"
    return fer_model(TINY, img_size=32, depth=1, **kwargs)


# ---- each backbone behind each resizer

RESIZERS = dict(
    vanilla=lambda: None,
    bicubic=lambda: NeuralResizer('bicubic', down='none', up_size=32, size=32),
    ltr=lambda: NeuralResizer('bilinear', up_size=64, size=32),
    sr=lambda: NeuralResizer('sr', down='bicubic', up_size=64, size=32, in_chans=1),
    sr_ltr=lambda: NeuralResizer('sr', up_size=64, size=32),
    images_stn_ltr=lambda: NeuralResizer('images', stn=True, up_size=48, size=32),
    rfdn_ltr=lambda: NeuralResizer(FrozenUpscale(RFDN(8, 2), 2), up_size=96, size=32))


@pytest.mark.parametrize('name', ARCHS)
def test_every_backbone_behind_every_resizer(name):
    "Full depth; 32 px, the smallest that all take. Each trainable parameter gets a finite gradient"
    m = fer_model(ARCHS[name], img_size=32, head='linear')
    vanilla = m.resizer
    for kind, make in RESIZERS.items():
        m.resizer = make() or vanilla
        m.train().zero_grad()
        logits = m(x)
        F.cross_entropy(logits, torch.tensor([0, 7])).backward()
        assert logits.shape == (2, 8), kind
        for parameter, p in m.named_parameters():
            if p.requires_grad:
                assert p.grad is not None and p.grad.isfinite().all(), (kind, parameter)


@pytest.mark.parametrize('name', ARCHS)
def test_groups_cover_every_parameter_once(name):
    with torch.device('meta'):
        m = fer_model(ARCHS[name], NeuralResizer(up_size=64, size=32))
    groups = param_groups(m, .1, .75)
    ids = [id(p) for group in groups for p in group['params']]
    assert sorted(ids) == sorted(id(p) for p in m.parameters())
    group_of = {id(p): group for group in groups for p in group['params']}
    new = [*m.resizer.parameters(), *m.head.parameters()]
    assert {group_of[id(p)]['lr_scale'] for p in new} == {1.}
    tables = ('pos_embed', 'cls_token', 'relative_position_bias_table', 'temperature')
    for name, p in m.named_parameters():
        free = p.ndim < 2 or name.endswith('.bias') or any(table in name for table in tables)
        assert group_of[id(p)]['weight_decay'] == (0 if free else .1), name

    def scales(start):
        return [group_of[id(p)]['lr_scale'] for name, p in m.trunk.named_parameters()
                if name.startswith(start)]
    assert max(scales('')) == pytest.approx(.75)
    assert max(scales('patch_embed')) == min(scales(''))
    assert set(scales('norm')) == {max(scales(''))}  # the last norm moves with the last block


@pytest.mark.parametrize('arch', ['resnet18', 'convnext_atto', 'mobilenetv3_small_050',
                                  'cait_xxs24_224', 'deit_tiny_distilled_patch16_224'])
def test_other_timm_models(arch):
    "Convolutional ones take any size; the pooled width is not always `num_features`"
    resizer = NeuralResizer('bilinear', down='none', up_size=64, size=64)
    m = fer_model(arch, resizer, n_classes=5).eval()
    assert m(x).shape == (2, 5)
    ids = [id(p) for group in param_groups(m, layer_decay=.9) for p in group['params']]
    assert sorted(ids) == sorted(id(p) for p in m.parameters())


# ---- how it computes

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    resizer = NeuralResizer('sr', stn=True, up_size=64, size=32)
    return fer_model(TINY, resizer, depth=2, drop_path=.2).eval()


def test_evaluation_ignores_the_batch(model):
    xs = torch.rand(5, 1, 48, 48)
    with torch.no_grad():
        assert torch.allclose(model(xs)[3], model(xs[3:4])[0], atol=1e-5)


def test_colour_and_size(model):
    "A grey face and the same as three equal channels, 48 px or others"
    with torch.no_grad():
        assert torch.allclose(model(x), model(x.expand(-1, 3, -1, -1)), atol=1e-5)
        assert model(torch.rand(2, 3, 100, 100)).shape == (2, 8)


def test_half_precision_and_channels_last(model):
    with torch.no_grad():
        reference = model(x)
        last = x.contiguous(memory_format=torch.channels_last)
        assert torch.allclose(model(last), reference, atol=1e-4)
        with torch.autocast('cpu', torch.bfloat16):
            assert (model(x)-reference).abs().max() < .1*reference.abs().max()+.05


def test_export(model):
    program = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        assert torch.allclose(program(x), model(x), atol=1e-5)


def test_augment_reaches_the_resizer():
    class Dark(nn.Module):
        def forward(self, x, size=None):
            return torch.zeros(*x.shape[:2], size or x.shape[-2], size or x.shape[-1])
    resizer = small(augment=Dark()).resizer
    assert resizer.train()(x).max() == 0 and resizer.eval()(x).max() > 0


# ---- weights from outside

def source(arch, path, **kwargs):
    "A weight file as timm publishes it, classifier included"
    torch.manual_seed(1)
    m = timm.create_model(arch, **kwargs)
    for p in m.parameters():
        nn.init.normal_(p, std=.02)
    save_file(m.state_dict(), path)
    return m


SWIN = 'swin_tiny_patch4_window7_224'
DISTILLED = 'deit_tiny_distilled_patch16_224'
FILES = [(TINY, dict(depth=2), (224, 112, 96)),
         ('convit_tiny', dict(depth=2, local_up_to_layer=1), (224, 112)),
         ('xcit_nano_12_p16_224', dict(depth=2), (224, 96)),
         (SWIN, dict(depths=(1, 1, 1, 1)), (224, 112, 96)), (DISTILLED, dict(depth=1), (224, 112)),
         ('resnet18', {}, (224, 64)), ('swinv2_cr_tiny_ns_224', dict(depths=(1, 1, 1, 1)), (224,)),
         ('mobilenetv3_small_050', {}, (224,))]


@pytest.mark.parametrize('arch,kwargs,sizes', FILES)
def test_file_fits(tmp_path, arch, kwargs, sizes):
    "At the file's own size all tensors are the file's; at another only tables of positions differ"
    path = tmp_path/'w.safetensors'
    theirs = source(arch, path, **kwargs).state_dict()
    for size in sizes:
        own = fer_model(arch, weights=path, img_size=size, **kwargs).trunk.state_dict()
        differ = {name.split('.')[-1] for name, tensor in own.items()
                  if not torch.equal(theirs[name], tensor)}
        assert differ <= (set() if size == 224 else {'pos_embed', 'relative_position_bias_table'})


@pytest.mark.parametrize('arch,kwargs', [(TINY, dict(depth=2)), (SWIN, dict(depths=(1, 1, 1, 1))),
                                         ('convnext_atto', {}), (DISTILLED, dict(depth=1))])
@pytest.mark.parametrize('classes', [0, 7, 1000])
def test_same_as_timm(tmp_path, arch, kwargs, classes):
    "A file with ImageNet's classifier, another one or none"
    theirs = source(arch, tmp_path/'w.safetensors', num_classes=classes, **kwargs).eval()
    theirs.reset_classifier(0)
    m = fer_model(arch, weights=tmp_path/'w.safetensors', img_size=224, **kwargs).eval()
    z = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(m.features(z), theirs((z-m.mean)/m.std))


def in_a_run(state): return dict(model=state, epoch=3)
def of_several_gpus(state): return dict(state_dict={f'module.{k}': v for k, v in state.items()})
def nested(state): return dict(model=dict(state_dict=state), optimizer=dict(lr=.1))


@pytest.mark.parametrize('wrap', [dict, in_a_run, of_several_gpus, nested])
def test_pth(tmp_path, wrap):
    theirs = timm.create_model(TINY, depth=1)
    torch.save(wrap(theirs.state_dict()), tmp_path/'w.pth')
    m = fer_model(TINY, weights=tmp_path/'w.pth', depth=1)
    assert torch.equal(m.trunk.norm.weight, theirs.norm.weight)


def test_original_swin_names(tmp_path):
    "Microsoft's release: downsampling at the end of a stage, buffers, a classifier without `fc`"
    kwargs = dict(depths=(1, 1, 1, 1))
    theirs = timm.create_model(SWIN, **kwargs).state_dict()
    state = {}
    for name, tensor in theirs.items():
        for i in (1, 2, 3):
            if f'layers.{i}.downsample' in name:
                name = name.replace(f'layers.{i}.downsample', f'layers.{i-1}.downsample')
                break
        state[name.replace('head.fc.', 'head.')] = tensor
    state['layers.0.blocks.0.attn.relative_position_index'] = torch.zeros(49, 49, dtype=torch.long)
    torch.save(dict(model=state), tmp_path/'swin.pth')
    m = fer_model(SWIN, weights=tmp_path/'swin.pth', **kwargs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in m.trunk.state_dict().items())


def test_nothing_in_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self): return open, (str(tmp_path/'owned'), 'w')
    torch.save(dict(model=Evil()), tmp_path/'evil.pth')
    with pytest.raises(ValueError, match='holds tensors and no other objects'):
        fer_model(TINY, weights=tmp_path/'evil.pth')
    assert not (tmp_path/'owned').exists()


REQUESTS = [
    (dict(arch='vit_tny_patch16_224'), ValueError, ["'vit_tny_patch16_224'", 'near names are vit_tiny']),
    (dict(arch='hf-hub:someone/model'), ValueError, ['is unknown to timm']),
    (dict(arch='swin_small_patch4_window7_224.in1k'), ValueError, ["'in1k' is unknown", 'ms_in1k']),
    (dict(arch=TINY, img_size=100), ValueError, ['patches of 16 px', 'take 96 or 112']),
    (dict(arch=TINY, img_size=-16), ValueError, ['img_size=-16', '> 0']),
    (dict(arch='xcit_nano_12_p16_224', img_size=100), ValueError, ['img_size=100']),
    (dict(arch=SWIN, img_size=30), ValueError, ['take 28 or 32']),
    (dict(arch='resnet18', deepness=3), ValueError, ['deepness=3']),
    (dict(arch=TINY, head='liner'), ValueError, ["'liner'", "did you mean 'linear'"]),
    (dict(arch=TINY, n_classes=1), ValueError, ['n_classes=1']),
    (dict(arch=TINY, drop_path=7), ValueError, ['drop_path=7', '[0, 1)']),
    (dict(arch=TINY, pretrained=True, weights='a.pth'), ValueError, ['give one of them']),
    (dict(arch=TINY, weights='nowhere/a.pth'), FileNotFoundError, ['a folder nowhere']),
    (dict(arch='vit_small_patch16_36x1_224', pretrained=True), ValueError, ['no weights'])]


@pytest.mark.parametrize('call,error,words', REQUESTS)
def test_bad_requests(call, error, words):
    with pytest.raises(error) as e:
        fer_model(**call)
    one_line(e, *words)


MISFITS = [
    (TINY, dict(depth=4), ['24 missing (blocks.2.norm1.weight']),
    (TINY, dict(depth=1), ['12 unknown (blocks.1.']),
    (DISTILLED, dict(depth=2), ['missing (dist_token', 'another architecture']),
    ('vit_small_patch16_224', dict(depth=2), ['shape', 'cls_token 1×1×192 for 1×1×384']),
    (TINY, dict(depth=2, patch_size=32), ['192×3×16×16 for 192×3×32×32']),
    ('convit_tiny', dict(depth=2), ['missing']),
    (SWIN, dict(depths=(1, 1, 1, 1)), ['missing', 'unknown']), ('resnet18', {}, ['missing'])]


@pytest.mark.parametrize('arch,kwargs,words', MISFITS)
def test_file_of_another_model(tmp_path, arch, kwargs, words):
    source(TINY, tmp_path/'w.safetensors', depth=2)
    with pytest.raises(ValueError) as e:
        fer_model(arch, weights=tmp_path/'w.safetensors', **kwargs)
    one_line(e, 'w.safetensors does not fit', *words)


def write(state, path):
    save_file(state, path) if path.suffix == '.safetensors' else torch.save(state, path)


@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
def test_damaged_files(tmp_path, suffix):
    path = tmp_path/f'w.{suffix}'
    write(timm.create_model(TINY, depth=1).state_dict(), path)
    whole = path.read_bytes()
    for data in (b'', whole[:100], whole[:-1000], b'<html>not found</html>'):
        path.write_bytes(data)
        for call in (lambda: fer_model(TINY, weights=path, depth=1), lambda: load_model(path)):
            with pytest.raises(ValueError) as e:
                call()
            one_line(e, path.name)


NO_WEIGHTS = {'NaN or infinity': lambda w: w*float('nan'), 'infinity': lambda w: w/0,
              'int8': lambda w: w.char(), 'bool': lambda w: w > 0, 'int64': lambda w: w.long(),
              'complex64': lambda w: w.cfloat()}


@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
@pytest.mark.parametrize('word', NO_WEIGHTS)
def test_what_is_no_weight(tmp_path, suffix, word):
    "Refused when it is read, not found when the training diverges"
    path, state = tmp_path/f'w.{suffix}', timm.create_model(TINY, depth=1).state_dict()
    state['norm.weight'] = NO_WEIGHTS[word](state['norm.weight'])
    write(state, path)
    with pytest.raises(ValueError) as e:
        fer_model(TINY, weights=path, depth=1)
    one_line(e, path.name, 'norm.weight', word)


@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
def test_a_file_without_tensors_never_asks_the_hub(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr('timm.models._builder.load_pretrained', None)  # who asks, fails
    write({}, tmp_path/f'w.{suffix}')
    with pytest.raises(ValueError, match='holds no tensors'):
        fer_model(TINY, weights=tmp_path/f'w.{suffix}', depth=1)


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
    convit = ('convit_tiny', dict(depth=2, local_up_to_layer=1))
    for arch, kwargs in ((TINY, dict(depth=1)), convit):
        folder = tmp_path/f'hub/models--timm--{arch}.{timm.get_pretrained_cfg(arch).tag}'
        snapshot = folder/'snapshots'/('0'*40)
        snapshot.mkdir(parents=True)
        (folder/'refs').mkdir()
        (folder/'refs'/'main').write_text('0'*40)
        norms[arch] = source(arch, snapshot/'model.safetensors', **kwargs).norm.weight.sum().item()
    code = HUB.format(tiny=TINY, empty=str(tmp_path/'empty'))
    out = python(code, HF_HUB_OFFLINE='1', HF_HUB_CACHE=str(tmp_path/'hub')).splitlines()
    assert len(out) == 4
    for loaded, failed, arch, tokens in zip(out[::2], out[1::2], norms, (50, 49)):
        name, norm, found = loaded.split()  # 7*7 patches, and ViT's class token
        assert name == arch and float(norm) == pytest.approx(norms[arch], rel=1e-4)
        assert int(found) == tokens
        assert failed.startswith(f'the weights of {arch} cannot be fetched from timm/')
        assert 'weights=PATH' in failed


@pytest.mark.parametrize('size', [224, 112, 96])
def test_real_weights(weights, size):
    "All tensors of the real ViT-Ti arrive; at smaller sizes timm resamples the position embedding"
    path = weights/f'{TINY}.safetensors'
    file = load_file(path)
    resizer = NeuralResizer('bilinear', up_size=2*size, size=size)
    m = fer_model(TINY, resizer, weights=path).eval()
    own = m.trunk.state_dict()
    assert own.keys() == file.keys()-{'head.weight', 'head.bias'}
    assert all(torch.equal(file[name], own[name]) for name in own if name != 'pos_embed')
    assert torch.equal(own['pos_embed'], file['pos_embed']) == (size == 224)
    overlay = dict(file=str(path))
    theirs = timm.create_model(TINY, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0,
                               img_size=size).eval()
    z = torch.rand(1, 3, size, size)
    with torch.no_grad():
        assert torch.equal(m.trunk(z), theirs(z))
    assert m.mean.flatten().tolist() == m.std.flatten().tolist() == [.5]*3


# ---- to a file and back

@pytest.mark.parametrize('kind', RESIZERS)
@pytest.mark.parametrize('head', ['mlp', 'linear'])
def test_round_trip(tmp_path, kind, head):
    path = tmp_path/'m.safetensors'
    m = fer_model(TINY, RESIZERS[kind](), 3, img_size=32, head=head, depth=1, drop_path=.1)
    m.train()(x)  # batch norm's statistics move
    save_weights(m, path, dict(vocab=['a', 'b', 'ç']))
    again = load_model(path)
    assert again.meta == dict(vocab=['a', 'b', 'ç'])
    assert not again.training and again.args == m.args
    with torch.no_grad():
        assert torch.equal(again(x), m.eval()(x))
    assert type(again.trunk.blocks[0].drop_path1) is type(m.trunk.blocks[0].drop_path1)


def test_files_from_before_the_digest(tmp_path):
    path, m = tmp_path/'m.safetensors', small(n_classes=3).eval()
    resizer = dict(up='bilinear', stn=False, down='none', in_size=48, up_size=32, size=32,
                   in_chans=3)
    info = dict(args=dict(m.args, resizer=resizer), meta=dict(epoch=3))
    save_file(m.state_dict(), path, dict(fer_nr=json.dumps(info)))
    again = load_model(path)
    assert again.meta == dict(epoch=3)
    with torch.no_grad():
        assert torch.equal(again(x), m(x))


def test_own_modules_must_be_brought(tmp_path):
    def narrow():
        return NeuralResizer('bilinear', down=LearnedDownscale(n=8, size=32), up_size=64, size=32)
    def unknown_network():
        return NeuralResizer(FrozenUpscale(nn.Upsample(scale_factor=2), 2), up_size=96, size=32)
    for make in (narrow, unknown_network):
        m = fer_model(TINY, make(), depth=1).eval()
        save_weights(m, tmp_path/'m.safetensors')
        with pytest.raises(ValueError) as e:
            load_model(tmp_path/'m.safetensors')
        one_line(e, 'm.safetensors', 'give resizer=')
        with torch.no_grad():
            assert torch.equal(load_model(tmp_path/'m.safetensors', make())(x), m(x))


def test_augment_is_not_part_of_the_file(tmp_path):
    m = small(augment=nn.BatchNorm2d(1))  # any module with parameters
    save_weights(m, tmp_path/'m.safetensors')
    assert load_model(tmp_path/'m.safetensors').resizer.augment is None
    assert load_weights(m, tmp_path/'m.safetensors') == {}


def test_half_precision_files(tmp_path):
    "Half the size on disk; the model that is built from it computes in float32"
    m = small()
    save_weights(m.half(), tmp_path/'m.safetensors')
    again = load_model(tmp_path/'m.safetensors')
    assert again(x).dtype == torch.float32
    assert torch.equal(again.head[0].weight.half(), m.head[0].weight)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    m, path = small(), tmp_path/'m.safetensors'
    before = save_weights(m, path).read_bytes()
    for meta in (dict(model=m), dict(loss=float('nan'))):
        with pytest.raises(ValueError) as e:
            save_weights(m, path, meta)
        one_line(e)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['m.safetensors']


def test_wrapped_models_are_saved_bare(tmp_path):
    m = small()
    wrapped = dict(bare=m, compiled=torch.compile(m), parallel=nn.DataParallel(m),
                   both=nn.DataParallel(torch.compile(m)))
    for name, model in wrapped.items():
        save_weights(model, tmp_path/f'{name}.safetensors')
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_one_rule_for_names(tmp_path):
    "What `save_weights` writes, `load_model` reads; neither takes a PyTorch file for its own"
    m = small()
    for name in ('w.pth', 'w.pt', 'w', 'w.bin'):
        with pytest.raises(ValueError) as e:
            save_weights(m, tmp_path/name)
        one_line(e, name, '.safetensors')
    torch.save(m.state_dict(), tmp_path/'w.pth')
    with pytest.raises(ValueError) as e:
        load_model(tmp_path/'w.pth')
    one_line(e, 'w.pth')


def test_every_flipped_bit_is_noticed(tmp_path):
    path = save_weights(small(), tmp_path/'m.safetensors')
    whole, places = path.read_bytes(), torch.Generator().manual_seed(0)
    for place in torch.randint(8, len(whole), (20,), generator=places).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError) as e:
            load_model(path)
        one_line(e, 'm.safetensors')


META = ['', 'null', '[]', '3', '{', '"text"', '{"meta": {}}', '{"args": 3}', '['*100000,
        '{"args": {"arch": 3}}',
        '{"args": {"arch": "vit_tny", "resizer": {}}}',
        '{"args": {"arch": "%s", "resizer": [], "n_classes": 8}}',
        '{"args": {"arch": "%s", "resizer": {"upp": 3}, "n_classes": 8}}',
        '{"args": {"arch": "%s", "resizer": {"size": "a"}, "n_classes": 8}}',
        '{"args": {"arch": "%s", "resizer": {}, "n_classes": "eight"}}',
        '{"args": {"arch": "%s", "resizer": {}, "n_classes": 1000000000000}}',
        '{"args": {"arch": "%s", "resizer": {}, "n_classes": 8, "depth": -1}}',
        '{"args": {"arch": "%s", "resizer": {}, "n_classes": 8, "pretrained": true}}',
        '{"args": {"arch": "%s", "resizer": {}, "n_classes": 8, "checkpoint_path": "evil.pth"}}',
        '{"args": {"arch": "%s", "resizer": {}, "n_classes": 8, "method": "scnn"}}',
        '{"args": {"arch": "%s", "resizer": {}, "n_classes": 8, "method": 3, "method_args": 4}}',
        '{"args": {"arch": "%s", "resizer": {}, "n_classes": 8, "head": "liner"}}']


@pytest.mark.parametrize('text', META, ids=range(len(META)))
def test_damaged_metadata(tmp_path, text):
    text = text.replace('%s', TINY)
    save_file({'head.weight': torch.ones(2)}, tmp_path/'m.safetensors', dict(fer_nr=text))
    with pytest.raises(ValueError) as e:
        load_model(tmp_path/'m.safetensors')
    one_line(e, 'm.safetensors')


def test_files_that_do_not_load(tmp_path):
    path = save_weights(small(), tmp_path/'m.safetensors')
    save_file({'w': torch.ones(2)}, tmp_path/'other.safetensors')
    with pytest.raises(FileNotFoundError) as e:
        load_model(tmp_path/'n.safetensors')
    one_line(e, 'beside it', 'm.safetensors')
    with pytest.raises(ValueError) as e:
        load_model(tmp_path/'other.safetensors')
    one_line(e, 'was not written by save_weights')
    with pytest.raises(ValueError) as e:
        load_weights(fer_model(TINY, img_size=32, depth=2), path)
    one_line(e, 'does not fit this model', '12 missing')
    with pytest.raises((ValueError, FileNotFoundError)) as e:
        load_model(tmp_path)
    one_line(e, 'no regular file')


def test_misfit_names_the_first_three_in_order():
    own = {f'b{i}.weight': torch.ones(2) for i in range(12)}
    assert misfit(own, {}) == '12 missing (b0.weight, b1.weight, b2.weight and 9 more)'
    other = {name: torch.ones(3).long() for name in own}
    words = misfit(own, other)
    assert words.startswith('12 of another shape (b0.weight 3 for 2, b1.weight 3 for 2, b2')
    assert '12 of another type (b0.weight torch.int64 for torch.float32, b1' in words


@pytest.mark.parametrize('arch,file,theirs', [
    ('dlib_resnet29', 'dlib_face_resnet29.safetensors', 'DlibFace'),
    ('faceres_mobilenetv1', 'faceres_mobilenetv1_vggface2.safetensors', 'FaceRes')])
def test_face_networks_against_the_published_ones(arch, file, theirs, monkeypatch):
    "Features of the published weights, against another implementation that lies beside them"
    folder = Path(os.environ.get('FER_NR_WEIGHTS', 'nowhere'))
    if not (folder/file).exists() or not (folder/'face_networks.py').exists():
        pytest.skip(f'{file} and face_networks.py are not in FER_NR_WEIGHTS')
    monkeypatch.syspath_prepend(str(folder))
    other = getattr(importlib.import_module('face_networks'), theirs)().eval()
    other.load_state_dict(load_file(folder/file))
    ours = fer_model(arch, weights=folder/file, img_size=150).eval()
    images = torch.rand(2, 3, 150, 150, generator=torch.Generator().manual_seed(0))
    expected = other.forward_features(images).mean((2, 3))
    assert_close(ours.features(images), expected, rtol=1e-4, atol=1e-5)
    training = ours.train().features(images)  # the folded statistics are taken over, not lost
    assert_close(training, expected, rtol=1e-2, atol=1e-2)
