"The resizer: real weights, every combination of its parts, compiled and exported, in every precision."
import copy, itertools, shutil, subprocess, sys
import numpy as np, pytest, torch, torch.nn as nn, torch.nn.functional as F
from matplotlib.cbook import get_sample_data
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
import fer_nr.resizer as resizer
from fer_nr.augment import augmentation
from fer_nr.resizer import RFDN, STN, ColourConv2d, FrozenUpscale, LearnedDownscale, NeuralResizer, SRUpscale

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
Q = dict(in_size=18, up_size=36) # small, and large enough for the STN

def nudged(m, seed=0):
    "`m` without the zeros that its modules begin with, and with noise in the others' place"
    torch.manual_seed(seed)
    for p in m.parameters():
        if p.requires_grad and not p.any(): nn.init.normal_(p, std=.02)
    return m

def frozen(c): return FrozenUpscale(RFDN(8, 2, c), 2, white=255., in_chans=c)

def build(up, stn, down, c, size=24):
    torch.manual_seed(0)
    return nudged(NeuralResizer(frozen(c) if up=='frozen' else up, stn=stn, down=down, in_chans=c, size=36 if down=='none' else size, **Q))

ups,downs = ('sr','bilinear','bicubic','images','frozen'),('ltr','bilinear','bicubic','none')
every = pytest.mark.parametrize('up,stn,down,c', [*itertools.product(ups, (False,True), downs, (1,3))])

@every
@pytest.mark.parametrize('amp', (False, True), ids=('float32','bfloat16'))
def test_every_combination_learns(up, stn, down, c, amp):
    "Finite images of the right size, and a finite gradient, not zero, in every trainable part and in the image"
    m,x = build(up, stn, down, c),torch.rand(4, c, 18, 18, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=amp): y = m(x)
    assert y.shape==(4, 3, m.size, m.size) and y.isfinite().all()
    (y.float()*torch.randn(y.shape)).sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()
    for n,p in m.named_parameters():
        assert (p.grad is None)==(not p.requires_grad)==('up.net' in n), n
        if p.requires_grad: assert p.grad.isfinite().all() and p.grad.any(), n

@every
def test_every_combination_ignores_what_must_not_matter(up, stn, down, c):
    "In evaluation an image's result does not depend on its batch, on the memory layout, or on grey being written as one channel or three"
    m,x = build(up, stn, down, c).eval(),torch.rand(3, c, 18, 18)
    close = lambda a,b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        y = m(x)
        close(torch.cat([m(o[None]) for o in x]), y)
        close(copy.deepcopy(m).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), y)
        if c==3 and up!='sr' and up!='frozen': close(m(x[:,:1]), m(x[:,:1].expand(-1,3,-1,-1)))

@pytest.mark.parametrize('dtype,tol', ((torch.float64, 1e-4), (torch.bfloat16, .2)))
def test_module_in_another_precision(dtype, tol):
    m,x = build('sr', True, 'ltr', 1).eval(),torch.rand(2,1,18,18)
    with torch.no_grad(): a,b = m(x),m.to(dtype)(x.to(dtype))
    assert b.dtype==dtype
    torch.testing.assert_close(b.float(), a, rtol=tol, atol=tol)

@pytest.mark.parametrize('c,o,k,pad,side', [(c, o, k, pad, side) for (c,o) in ((1,16),(3,16),(16,1),(16,3),(3,32),(1,1),(3,3),(8,5))
                                            for k,pad in ((7,3),(3,1),(7,0)) for side in ((24,24),(25,24),(9,14))])
def test_thin_convolution_is_a_convolution(c, o, k, pad, side):
    "Value, gradients and second derivatives against F.conv2d, in double precision"
    torch.manual_seed(0)
    x,w,b = (torch.randn(s, dtype=torch.double, requires_grad=True) for s in ((2,c,*side), (o,c,k,k), (o,)))
    def derivatives(f):
        y = f(x, w, b)
        g = torch.autograd.grad(y.square().sum(), (x,w,b), create_graph=True)
        return y,*g,*torch.autograd.grad(sum(o.square().sum() for o in g), (x,w,b))
    for u,v in zip(derivatives(lambda *t: resizer._conv(*t, pad)), derivatives(lambda x,w,b: F.conv2d(x, w, b, padding=pad))):
        torch.testing.assert_close(u, v, rtol=1e-9, atol=1e-9*max(v.abs().max().item(), 1))

def test_thin_convolution_under_autocast():
    "Half precision inside, gradients in the precision of what they belong to"
    torch.manual_seed(0)
    m,x = ColourConv2d(3, 16, 7, padding=3),torch.rand(2,1,24,24, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16): y = m(x)
    y.float().square().sum().backward()
    half = x.grad,m.weight.grad
    assert y.dtype==torch.bfloat16 and x.grad.dtype==m.weight.grad.dtype==torch.float32
    x.grad = m.weight.grad = None
    m(x).square().sum().backward()
    for a,b in zip(half, (x.grad, m.weight.grad)): assert (a-b).norm() < .02*b.norm()

# --- compile, export, weights in files

@pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs g++')
@pytest.mark.timeout(900)
def test_compiles_to_machine_code():
    "One graph, forward and backward, the results of eager code"
    torch.manual_seed(0)
    m,x = nudged(NeuralResizer(SRUpscale(2, 8, 1, in_chans=1), stn=True, size=24, **Q)),torch.rand(2,1,18,18)
    compiled = torch.compile(m, fullgraph=True)
    def run(f):
        y = f(x)
        return [y, *torch.autograd.grad(y.square().mean(), m.parameters())]
    for a,b in zip(run(compiled), run(m)): torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)

@pytest.mark.parametrize('up,c', (('sr',1), ('sr',3), ('bilinear',1), ('images',3), ('frozen',1)))
def test_exports(up, c, tmp_path):
    "A program for any number of faces, saved, read back and run"
    m,x = build(up, True, 'ltr', c).eval(),torch.rand(3, c, 18, 18)
    n = torch.export.Dim('faces', min=1, max=512)
    torch.export.save(torch.export.export(m, (x,), dynamic_shapes=[{0: n}], strict=False), tmp_path/'resizer.pt2')
    program = torch.export.load(tmp_path/'resizer.pt2').module()
    for k in (1,3): torch.testing.assert_close(program(x[:k]), m(x[:k]), rtol=1e-4, atol=1e-4)

def test_weights_round_trip(tmp_path):
    a,b = build('sr', True, 'ltr', 1).eval(),NeuralResizer('sr', stn=True, in_chans=1, size=24, **Q).eval()
    save_file(a.state_dict(), tmp_path/'r.safetensors')
    b.load_state_dict(load_file(tmp_path/'r.safetensors'))
    x = torch.rand(2,1,18,18)
    assert a(x).equal(b(x))

# --- the paper's numbers of parameters, at its sizes, also for grey images

@pytest.mark.parametrize('c', (1,3))
def test_parameters_of_the_release(c):
    m = NeuralResizer('sr', stn=True, in_chans=c)
    n = lambda o: sum(p.numel() for p in o.parameters())
    assert (n(m.stn), n(m.down))==(2_711_904, 12_083) and n(m.up)=={1: 92_800, 3: 130_368}[c]

# --- real weights and photographs

def photographs():
    "Public photographs that come with matplotlib and scikit-learn: (1, 3, H, W) in [0, 1], sides divisible by 4"
    images = dict(hopper=np.asarray(Image.open(get_sample_data('grace_hopper.jpg', asfileobj=False)).convert('RGB')),
                  china=load_sample_image('china.jpg'), flower=load_sample_image('flower.jpg'))
    return {k: torch.tensor(v[:len(v)//4*4, :v.shape[1]//4*4].copy()).permute(2,0,1)[None]/255 for k,v in images.items()}

def smaller(x):
    "A quarter of the size, by Pillow's bicubic filter, as such networks are trained on"
    im = Image.fromarray((x[0]*255).byte().permute(1,2,0).numpy())
    return torch.tensor(np.array(im.resize((im.width//4, im.height//4), Image.BICUBIC))).permute(2,0,1)[None]/255

def psnr(a, b): return -10*(a.clamp(0,1)-b).square()[..., 8:-8, 8:-8].mean().log10().item()

@pytest.mark.parametrize('name,margin', (('hopper', 2.5), ('china', .4), ('flower', 2.)))
def test_rfdn_beats_bicubic_on_photographs(weights, name, margin):
    hr = photographs()[name]
    lr,up = smaller(hr),FrozenUpscale.from_file(weights/'RFDN_AIM_x4.pth')
    with torch.no_grad(): colour,grey = up(lr),up(lr.mean(1, keepdim=True))
    assert psnr(colour, hr) > psnr(F.interpolate(lr, scale_factor=4, mode='bicubic'), hr)+margin
    grey_hr = hr.mean(1, keepdim=True)
    assert psnr(grey, grey_hr) > psnr(F.interpolate(lr.mean(1, keepdim=True), scale_factor=4, mode='bicubic'), grey_hr)+margin
    assert -.2 < colour.min() and colour.max() < 1.2

def test_rfdn_real_weights_in_other_ways(weights, tmp_path):
    "The same from safetensors; nearly the same in bfloat16; at FERPlus's size inside a resizer; fine-tuned"
    up = FrozenUpscale.from_file(weights/'RFDN_AIM_x4.pth')
    save_file(up.net.state_dict(), tmp_path/'rfdn.safetensors')
    x = F.interpolate(photographs()['hopper'][..., 60:260, 150:350], (48,48), mode='area')
    with torch.no_grad():
        y = up(x)
        assert FrozenUpscale.from_file(tmp_path/'rfdn.safetensors')(x).equal(y)
        with torch.autocast('cpu', torch.bfloat16): assert psnr(up(x).float(), y) > 40
    assert up.scale==4 and sum(p.numel() for p in up.parameters())==433_448
    m = NeuralResizer(FrozenUpscale.from_file(weights/'RFDN_AIM_x4.pth', finetune=True), up_size=192, size=112).train()
    m(x).square().mean().backward()
    assert not m.up.net.training and all(p.grad is not None and p.grad.isfinite().all() for p in m.parameters())

def test_spandrel_does_not_know_rfdn(weights):
    "The day it does, its implementation becomes the reference of ours"
    spandrel = pytest.importorskip('spandrel')
    with pytest.raises(spandrel.UnsupportedModelError): spandrel.ModelLoader().load_from_state_dict(resizer._read_tensors(weights/'RFDN_AIM_x4.pth'))

def test_spandrel_network_with_awkward_sizes(tmp_path):
    "SAFMN takes multiples of 8: padding in, cropping out, equal to spandrel's own call"
    spandrel = pytest.importorskip('spandrel')
    from spandrel.architectures.SAFMN import SAFMN
    torch.manual_seed(0)
    torch.save({'params': SAFMN(dim=12, n_blocks=2, upscaling_factor=2).state_dict()}, tmp_path/'safmn.pth')
    up,x = FrozenUpscale.from_file(tmp_path/'safmn.pth'),torch.rand(1,3,19,22)
    reference = spandrel.ModelLoader().load_from_file(tmp_path/'safmn.pth')
    with torch.no_grad(): y = up(x)
    assert y.shape==(1,3,38,44) and up.multiple_of==8
    torch.testing.assert_close(y.clamp(0,1), reference(x).clone(), rtol=1e-4, atol=1e-4)

# --- augmentation and the device

def test_augmentation_and_resize_are_one_step_for_bilinear():
    x = torch.rand(3,1,18,18)
    aug = augmentation('modern')
    m = NeuralResizer('bilinear', down='none', up_size=36, size=36, augment=aug)
    torch.manual_seed(3); y = m(x)
    torch.manual_seed(3); assert y.equal(aug(x, size=36).expand(-1,3,-1,-1))
    assert m.eval()(x).equal(F.interpolate(x, (36,36), mode='bilinear').expand(-1,3,-1,-1))
    m.augment.train() # the released evaluation: the model evaluates, its augmentation goes on
    assert not m(x).equal(m(x))

@pytest.mark.parametrize('up', ('sr', 'bicubic', 'images', 'frozen'))
def test_augmentation_follows_a_network(up):
    m = build(up, False, 'none', 1)
    x,m.augment = torch.rand(3,1,18,18),augmentation('authors')
    m.train(); torch.manual_seed(3); y = m(x)
    torch.manual_seed(3); z = m.augment(resizer._resize(m.up(x), 36))
    assert y.equal(z.expand(-1,3,-1,-1))

def test_loads_without_fastai():
    code = 'import sys, fer_nr.resizer; print(*sorted({"fastai", "IPython", "matplotlib", "nbdev", "spandrel", "timm"} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()==''

@gpu
@pytest.mark.parametrize('up', ups)
@pytest.mark.parametrize('dtype', (torch.float32, torch.float16, torch.bfloat16))
def test_gpu_agrees_with_cpu(up, dtype):
    m,x = build(up, True, 'ltr', 1),torch.rand(4,1,18,18)
    y = copy.deepcopy(m)(x)
    g = copy.deepcopy(m).cuda().to(memory_format=torch.channels_last)
    with torch.autocast('cuda', dtype, enabled=dtype!=torch.float32): z = g(x.cuda())
    torch.testing.assert_close(z.float().cpu(), y, **(dict(rtol=1e-3, atol=1e-3) if dtype==torch.float32 else dict(rtol=.1, atol=.1)))
    z.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in g.parameters() if p.requires_grad)
