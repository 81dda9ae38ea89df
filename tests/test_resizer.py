"The resizer: every combination of its parts, real weights, compiled, traced, in every precision."
import copy
import io
import itertools
import shutil

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from matplotlib.cbook import get_sample_data
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from torch.testing import assert_close

from fer_nr import registry
from fer_nr.augment import augmentation
from fer_nr.conv import conv2d
from fer_nr.registry import part, parts
from fer_nr.resizer import (ColourConv2d, FrozenUpscale, LearnedDownscale, Muller, NeuralResizer,
                            SRUpscale, resize, resizer_arguments)
from fer_nr.superres import RFDN, read_weights

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
SMALL = dict(in_size=18, up_size=36)  # and large enough for the STN


def nudged(module, seed=0):
    "`module` with noise in place of the zeros that it begins with"
    torch.manual_seed(seed)
    for p in module.parameters():
        if p.requires_grad and not p.any():
            nn.init.normal_(p, std=.02)
    return module


def build(up, stn, down, channels, size=24):
    "A small resizer in which nothing is zero"
    torch.manual_seed(0)
    if up == 'frozen':
        up = FrozenUpscale(RFDN(8, 2, channels), 2, white=255., in_chans=channels)
    if down == 'none':
        size = SMALL['up_size']
    return nudged(NeuralResizer(up, stn=stn, down=down, in_chans=channels, size=size, **SMALL))


UPS = 'sr', 'bilinear', 'bicubic', 'images', 'frozen'
DOWNS = 'ltr', 'muller', 'bilinear', 'bicubic', 'none'
COMBINATIONS = [*itertools.product(UPS, (False, True), DOWNS, (1, 3))]
every = pytest.mark.parametrize('up,stn,down,channels', COMBINATIONS)


@every
@pytest.mark.parametrize('amp', (False, True), ids=('float32', 'bfloat16'))
def test_every_combination_learns(up, stn, down, channels, amp):
    "Images of the right size; a finite gradient that is not zero in every trainable part and image"
    model = build(up, stn, down, channels)
    x = torch.rand(4, channels, 18, 18, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        y = model(x)
    assert y.shape == (4, 3, model.size, model.size) and y.isfinite().all()
    (y.float()*torch.randn(y.shape)).sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()
    for name, p in model.named_parameters():
        assert (p.grad is None) == (not p.requires_grad) == ('up.net' in name), name
        if p.requires_grad:
            assert p.grad.isfinite().all() and p.grad.any(), name


@every
def test_every_combination_ignores_what_must_not_matter(up, stn, down, channels):
    "In evaluation: the batch, the memory layout, grey as one channel or three"
    model, x = build(up, stn, down, channels).eval(), torch.rand(3, channels, 18, 18)
    last = dict(memory_format=torch.channels_last)
    close = dict(rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        y = model(x)
        assert_close(torch.cat([model(one[None]) for one in x]), y, **close)
        assert_close(copy.deepcopy(model).to(**last)(x.to(**last)), y, **close)
        if channels == 3 and up not in ('sr', 'frozen'):
            assert_close(model(x[:, :1]), model(x[:, :1].expand(-1, 3, -1, -1)), **close)


# --- the CPU's convolution with few channels

SHAPES = (1, 16), (3, 16), (16, 1), (16, 3), (3, 32), (1, 1), (3, 3), (8, 5)


@pytest.mark.parametrize('channels,out', SHAPES)
@pytest.mark.parametrize('kernel,padding', ((7, 3), (3, 1), (7, 0)))
@pytest.mark.parametrize('side', ((24, 24), (25, 24), (9, 14)))
@pytest.mark.parametrize('bias', (True, False), ids=('bias', 'no bias'))
def test_few_channels_give_the_result_of_conv2d(channels, out, kernel, padding, side, bias):
    "Value, gradients and second derivatives, in double precision"
    torch.manual_seed(0)
    shapes = [(2, channels, *side), (out, channels, kernel, kernel), (out,)][:3 if bias else 2]
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]

    def derivatives(convolve):
        y = convolve(*inputs, *([] if bias else [None]), padding)
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        total = sum(grad.square().sum() for grad in first)
        return y, *first, *torch.autograd.grad(total, inputs)

    def plain(x, weight, bias, padding):
        return F.conv2d(x, weight, bias, padding=padding)

    for ours, theirs in zip(derivatives(conv2d), derivatives(plain)):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-9*max(theirs.abs().max().item(), 1))


def test_few_channels_under_autocast():
    "Half precision inside, gradients in the precision of what they belong to"
    torch.manual_seed(0)
    conv, x = ColourConv2d(3, 16, 7, padding=3), torch.rand(2, 1, 24, 24, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    half = x.grad, conv.weight.grad
    x.grad = conv.weight.grad = None
    conv(x).square().sum().backward()
    for ours, reference in zip(half, (x.grad, conv.weight.grad)):
        assert ours.dtype == reference.dtype == torch.float32
        assert (ours-reference).norm() < .02*reference.norm()


def test_layout_follows_the_few_channels():
    "Channels-last on a CPU without being asked for"
    x, last = torch.rand(2, 1, 48, 48), dict(memory_format=torch.channels_last)
    assert LearnedDownscale(size=24).features(x).is_contiguous(**last)
    assert SRUpscale(2, in_chans=1).head(x).is_contiguous(**last)


# --- in other people's programs

def whole(stn=True):
    return build('sr', stn, 'ltr', 1).eval()


@pytest.mark.parametrize('own', (torch.float32, torch.float64, torch.bfloat16))
@pytest.mark.parametrize('data', (torch.float32, torch.float64, torch.float16))
def test_any_precision_of_model_and_data(own, data):
    "The result is in the model's precision, near that of float32"
    model, x = whole(), torch.rand(2, 1, 18, 18)
    with torch.no_grad():
        y, reference = copy.deepcopy(model).to(own)(x.to(data)), model(x)
    assert y.dtype == own
    coarse = own == torch.bfloat16 or data == torch.float16
    assert_close(y.float(), reference, rtol=.2 if coarse else 1e-4, atol=.2 if coarse else 1e-4)


@pytest.mark.parametrize('data', (torch.float32, torch.float64, torch.float16, torch.bfloat16))
def test_any_precision_of_data_under_autocast(data):
    model, x = whole(), torch.rand(2, 1, 18, 18).to(data).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        y = model(x)
    y.float().square().mean().backward()
    assert x.grad.isfinite().all() and x.grad.any() and x.grad.dtype == data


@pytest.mark.filterwarnings('ignore')  # torch's tracers warn about every shape that they see
@pytest.mark.parametrize('requires_grad', (False, True))
@pytest.mark.parametrize('down', DOWNS)
def test_jit_trace(down, requires_grad):
    "For any number of faces, and for faces of another size"
    model = build('sr', False, down, 1).eval()
    traced = torch.jit.trace(model, torch.rand(2, 1, 18, 18, requires_grad=requires_grad))
    for shape in ((5, 1, 18, 18), (1, 1, 16, 20)):
        x = torch.rand(shape)
        assert_close(traced(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('down', DOWNS)
def test_onnx_by_torchscript(down):
    "A checked ONNX program; ONNX Runtime's results, where it is installed"
    onnx = pytest.importorskip('onnx')
    model, x, file = build('sr', True, down, 1).eval(), torch.rand(2, 1, 18, 18), io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=False, opset_version=17, input_names=['faces'],
                      dynamic_axes={'faces': {0: 'n'}})
    onnx.checker.check_model(onnx.load_from_string(file.getvalue()))
    runtime = pytest.importorskip('onnxruntime')
    session = runtime.InferenceSession(file.getvalue())
    for n in (1, 2):
        y, = session.run(None, {'faces': x[:n].numpy()})
        assert_close(torch.tensor(y), model(x[:n]).detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('compiled', (False, True))
def test_gradient_of_each_sample(compiled):
    "`torch.func.vmap` of `grad`, also compiled, against one backward pass per face"
    up, down = SRUpscale(2, 8, 1, in_chans=1), LearnedDownscale(n=8, r=0, size=24)
    model = nudged(NeuralResizer(up, down=down, size=24, **SMALL)).eval()
    x, weights = torch.rand(3, 1, 18, 18), dict(model.named_parameters())

    def loss(weights, face):
        return torch.func.functional_call(model, weights, face[None]).square().mean()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))
    if compiled:
        each = torch.compile(each, backend='aot_eager')
    each = each(weights, x)
    for i, face in enumerate(x):
        reference = torch.autograd.grad(loss(weights, face), list(weights.values()))
        for name, grad in zip(weights, reference):
            assert_close(each[name][i], grad, rtol=1e-3, atol=1e-5)


def test_forward_mode_derivatives():
    "`torch.func.jvp` and dual numbers against the backward pass"
    model = whole(stn=False).double()  # F.grid_sample has no forward mode
    x, direction = torch.rand(2, 2, 1, 18, 18, dtype=torch.double)
    pull = torch.rand(2, 3, 24, 24, dtype=torch.double)
    leaf = x.clone().requires_grad_()
    reference = (torch.autograd.grad(model(leaf), leaf, pull)[0]*direction).sum()
    tangents = [torch.func.jvp(model, (x,), (direction,))[1]]
    with torch.autograd.forward_ad.dual_level():
        y = model(torch.autograd.forward_ad.make_dual(leaf, direction))
        tangents.append(torch.autograd.forward_ad.unpack_dual(y).tangent)
    for tangent in tangents:
        assert_close((tangent*pull).sum(), reference)


@pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs g++')
@pytest.mark.timeout(900)
def test_compiles_to_machine_code():
    "One graph, forward and backward, the results of eager code"
    torch.manual_seed(0)
    model = nudged(NeuralResizer(SRUpscale(2, 8, 1, in_chans=1), stn=True, size=24, **SMALL))
    x = torch.rand(2, 1, 18, 18)

    def run(f):
        y = f(x)
        return [y, *torch.autograd.grad(y.square().mean(), model.parameters())]

    assert_close(run(torch.compile(model, fullgraph=True)), run(model), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize('up,down,channels', (('sr', 'ltr', 1), ('images', 'muller', 3)))
def test_exports(up, down, channels, tmp_path):
    "A program for any number of faces, saved, read back and run"
    model, x = build(up, True, down, channels).eval(), torch.rand(3, channels, 18, 18)
    shapes = [{0: torch.export.Dim('faces', min=1, max=512)}]
    program = torch.export.export(model, (x,), dynamic_shapes=shapes, strict=False)
    torch.export.save(program, tmp_path/'resizer.pt2')
    program = torch.export.load(tmp_path/'resizer.pt2').module()
    for n in (1, 3):
        assert_close(program(x[:n]), model(x[:n]), rtol=1e-4, atol=1e-4)


# --- built by name

def test_weights_and_arguments_make_it_again(tmp_path):
    model = whole()
    save_file(model.state_dict(), tmp_path/'r.safetensors')
    again = NeuralResizer(**resizer_arguments(model)).eval()
    again.load_state_dict(load_file(tmp_path/'r.safetensors'))
    x = torch.rand(2, 1, 18, 18)
    assert model(x).equal(again(x))


def test_no_arguments_for_somebody_elses_module():
    own = build('sr', False, 'ltr', 1)
    own.down = LearnedDownscale(n=8, size=24)
    parity = NeuralResizer(up_size=384, down=LearnedDownscale(scale_factor=.584))
    wide = NeuralResizer(SRUpscale(8, channels=16))
    for model in (own, parity, wide, NeuralResizer(nn.Upsample(384))):
        assert resizer_arguments(model) is None


def test_a_part_of_ones_own(monkeypatch):
    "One decorated function is enough"
    known = {kind: parts(kind) for kind in ('up', 'down')}
    monkeypatch.setattr(registry, '_PARTS', known)  # the pool is gone after this test
    @part('down', 'test_pool')
    def pool(size):
        "Adaptive pooling"
        return nn.AdaptiveAvgPool2d(size)

    x = torch.rand(2, 1, 18, 18)
    model = NeuralResizer('bilinear', down='test_pool', size=9, **SMALL)
    assert_close(model(x), F.adaptive_avg_pool2d(resize(x, 36), 9).expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match="down 'test_pol' is unknown: .*mean 'test_pool'"):
        NeuralResizer('bilinear', down='test_pol')
    for nonsense in (None, 3, ['sr'], LearnedDownscale):
        with pytest.raises(ValueError, match='is unknown: expected one of .* or a torch.nn.Module'):
            NeuralResizer(nonsense)


def test_muller_against_numpy():
    "One row of pixels, by hand"
    torch.manual_seed(0)
    row = np.random.default_rng(0).random(11)
    gaussian = np.exp(-np.arange(-2, 3)**2/2)
    gaussian /= gaussian.sum()

    def blur(x):
        return np.convolve(np.pad(x, 2, 'edge'), gaussian, 'valid')

    model = Muller(11).double()
    model.alpha.data.copy_(torch.tensor([1.5, -.7]))
    model.beta.data.copy_(torch.tensor([.1, 0.]))
    expected = row + np.tanh(1.5*(row-blur(row))+.1) + np.tanh(-.7*(blur(row)-blur(blur(row))))
    x = torch.tensor(row).expand(1, 1, 11, 11)
    assert_close(model(x)[0, 0], torch.tensor(expected).expand(11, 11), rtol=1e-6, atol=1e-6)


# --- real weights and photographs

def photographs():
    "Public photographs: (1, 3, H, W) in [0, 1], sides divisible by 4"
    hopper = Image.open(get_sample_data('grace_hopper.jpg', asfileobj=False)).convert('RGB')
    images = dict(hopper=np.asarray(hopper))
    for name in ('china', 'flower'):
        images[name] = load_sample_image(f'{name}.jpg')
    found = {}
    for name, image in images.items():
        height, width = image.shape[0]//4*4, image.shape[1]//4*4
        found[name] = torch.tensor(image[:height, :width].copy()).permute(2, 0, 1)[None]/255
    return found


def smaller(x):
    "A quarter of the size, by Pillow's bicubic filter, as such networks are trained on"
    image = Image.fromarray((x[0]*255).byte().permute(1, 2, 0).numpy())
    image = image.resize((image.width//4, image.height//4), Image.BICUBIC)
    return torch.tensor(np.array(image)).permute(2, 0, 1)[None]/255


def psnr(x, truth):
    return -10*(x.clamp(0, 1)-truth).square()[..., 8:-8, 8:-8].mean().log10().item()


@pytest.mark.parametrize('name,margin', (('hopper', 2.5), ('china', .4), ('flower', 2.)))
def test_rfdn_beats_bicubic_on_photographs(weights, name, margin):
    truth = photographs()[name]
    x, up = smaller(truth), FrozenUpscale.from_file(weights/'RFDN_AIM_x4.pth')
    for x, truth in ((x, truth), (x.mean(1, keepdim=True), truth.mean(1, keepdim=True))):
        with torch.no_grad():
            y = up(x)
        assert psnr(y, truth) > psnr(F.interpolate(x, scale_factor=4, mode='bicubic'), truth)+margin
        assert -.2 < y.min() and y.max() < 1.2


def test_rfdn_real_weights_in_other_ways(weights, tmp_path):
    "The same from safetensors; nearly the same in bfloat16; fine-tuned inside a resizer"
    up = FrozenUpscale.from_file(weights/'RFDN_AIM_x4.pth')
    save_file(up.net.state_dict(), tmp_path/'rfdn.safetensors')
    x = F.interpolate(photographs()['hopper'][..., 60:260, 150:350], (48, 48), mode='area')
    with torch.no_grad():
        y = up(x)
        assert FrozenUpscale.from_file(tmp_path/'rfdn.safetensors')(x).equal(y)
        with torch.autocast('cpu', torch.bfloat16):
            assert psnr(up(x).float(), y) > 40
    tuned = FrozenUpscale.from_file(weights/'RFDN_AIM_x4.pth', finetune=True)
    model = NeuralResizer(tuned, up_size=192, size=112).train()
    model(x).square().mean().backward()
    assert not model.up.net.training
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_spandrel_does_not_know_rfdn(weights):
    "The day it does, its implementation becomes the reference of ours"
    spandrel = pytest.importorskip('spandrel')
    tensors = read_weights(weights/'RFDN_AIM_x4.pth')
    with pytest.raises(spandrel.UnsupportedModelError):
        spandrel.ModelLoader().load_from_state_dict(tensors)


def test_spandrel_network_with_awkward_sizes(tmp_path):
    "SAFMN takes multiples of 8: padding in, cropping out, equal to spandrel's own call"
    spandrel = pytest.importorskip('spandrel')
    from spandrel.architectures.SAFMN import SAFMN
    torch.manual_seed(0)
    network = SAFMN(dim=12, n_blocks=2, upscaling_factor=2)
    torch.save({'params': network.state_dict()}, tmp_path/'safmn.pth')
    up, x = FrozenUpscale.from_file(tmp_path/'safmn.pth'), torch.rand(1, 3, 19, 22)
    reference = spandrel.ModelLoader().load_from_file(tmp_path/'safmn.pth')
    with torch.no_grad():
        y = up(x)
    assert y.shape == (1, 3, 38, 44) and up.multiple_of == 8
    assert_close(y.clamp(0, 1), reference(x).clone(), rtol=1e-4, atol=1e-4)


# --- augmentation and the device

def test_augmentation_and_resize_are_one_step_for_bilinear():
    x, augment = torch.rand(3, 1, 18, 18), augmentation('modern')
    model = NeuralResizer('bilinear', down='none', up_size=36, size=36, augment=augment)
    torch.manual_seed(3)
    y = model(x)
    torch.manual_seed(3)
    assert y.equal(augment(x, size=36).expand(-1, 3, -1, -1))
    assert model.eval()(x).equal(F.interpolate(x, (36, 36), mode='bilinear').expand(-1, 3, -1, -1))
    model.augment.train()  # the released evaluation: the model evaluates, its augmentation goes on
    assert not model(x).equal(model(x))


@pytest.mark.parametrize('up', ('sr', 'bicubic', 'images', 'frozen'))
def test_augmentation_follows_a_network(up):
    model = build(up, False, 'none', 1)
    x, model.augment = torch.rand(3, 1, 18, 18), augmentation('authors')
    model.train()
    torch.manual_seed(3)
    y = model(x)
    torch.manual_seed(3)
    assert y.equal(model.augment(resize(model.up(x), 36)).expand(-1, 3, -1, -1))


@gpu
@pytest.mark.parametrize('up', UPS)
@pytest.mark.parametrize('down', ('ltr', 'muller'))
@pytest.mark.parametrize('dtype', (torch.float32, torch.float16, torch.bfloat16))
def test_gpu_agrees_with_cpu(up, down, dtype):
    model, x = build(up, True, down, 1), torch.rand(4, 1, 18, 18)
    y = copy.deepcopy(model)(x)
    on_gpu = copy.deepcopy(model).cuda().to(memory_format=torch.channels_last)
    full = dtype == torch.float32
    with torch.autocast('cuda', dtype, enabled=not full):
        z = on_gpu(x.cuda())
    assert_close(z.float().cpu(), y, rtol=1e-3 if full else .1, atol=1e-3 if full else .1)
    z.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in on_gpu.parameters() if p.requires_grad)
