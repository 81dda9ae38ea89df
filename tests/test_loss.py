"What 02_loss cannot show: many random cases against a plain float64 formula, half precision against exact gradients, real FER+ files"
import copy, subprocess, sys

import numpy as np, pytest, torch
import torch.nn.functional as F

from fer_nr.loss import (CompFPDLS, CrossEntropy, FocalLoss, FPDLS, PDLS, SoftVoteCE, UniformSmoothing, flat_prior, focal_factor,
                         label_prior, map_prior, released_prior)
from fer_nr.loss import _released_votes

VOCAB = ('neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear', 'contempt')
RAFDB = ('surprise', 'fear', 'disgust', 'happiness', 'sadness', 'anger', 'neutral')


def case(seed, most=12):
    "Random classes, batch, prior, alpha, gamma"
    r = np.random.default_rng(seed)
    K, B = r.integers(2, most), r.integers(1, most)
    return dict(r=r, K=K, B=B, prior=r.dirichlet(np.ones(K), K), alpha=r.uniform(), gamma=r.choice([0, .3, 1, 2, 3.7]),
                z=r.normal(size=(B, K))*r.choice([.1, 1, 5]), y=r.integers(0, K, B))

def losses(c):
    a, g, d, K = c['alpha'], c['gamma'], c['prior'], c['K']
    t, mix = np.eye(K), a*np.eye(K) + (1-a)*c['prior']
    one = lambda p: 1.
    return [(CrossEntropy, {}, t, one), (PDLS, dict(prior=d, alpha=a), mix, one), (FPDLS, dict(prior=d, alpha=a, gamma=g), mix, lambda p: (1-p)**g),
            (CompFPDLS, dict(prior=d, alpha=a), mix, lambda p: (1-p)*K/(K-1)), (FocalLoss, dict(gamma=g), t, lambda p: (1-p)**g),
            (UniformSmoothing, dict(alpha=a), a*t + (1-a)/K, one)]

@pytest.mark.parametrize('seed', range(30))
def test_against_the_formula(seed):
    c = case(seed)
    p = np.exp(c['z']); p /= p.sum(1, keepdims=True)
    w = c['r'].uniform(.1, 3, c['K'])
    z, y = torch.tensor(c['z']), torch.tensor(c['y'])
    for cls, kw, q, f in losses(c):
        ref = -(q[c['y']]*f(p)*np.log(p)).sum(1)
        assert np.allclose(cls(**kw, reduction='none')(z, y), ref, rtol=1e-5), cls
        assert np.allclose(cls(**kw)(z, y), ref.mean(), rtol=1e-5)
        assert np.allclose(cls(**kw, weight=w)(z, y), (ref*w[c['y']]).sum()/w[c['y']].sum(), rtol=1e-5)
        assert np.allclose(cls(**kw, weight=w, reduction='sum')(z, y), (ref*w[c['y']]).sum(), rtol=1e-5)

@pytest.mark.parametrize('seed', range(6))
def test_gradients(seed):
    c = case(seed, most=5)
    z, y = torch.tensor(c['z'], requires_grad=True), torch.tensor(c['y'])
    for cls, kw, *_ in losses(c): assert torch.autograd.gradcheck(lambda z: cls(**kw)(z, y), z)
    v = torch.tensor(c['r'].dirichlet(np.ones(c['K']), c['B']))
    assert torch.autograd.gradcheck(lambda z: SoftVoteCE()(z, v), z)

@pytest.mark.parametrize('dtype,eps', [(torch.bfloat16, 2**-8), (torch.float16, 2**-10)])
def test_half_precision_is_exact_but_for_its_own_rounding(dtype, eps):
    torch.manual_seed(0)
    prior = torch.softmax(torch.eye(8)*3, 1)
    for scale in (1, 10, 100, 1000):
        z, y = (torch.randn(64, 8)*scale).to(dtype), torch.randint(0, 8, (64,))
        for loss in (PDLS(prior), FPDLS(prior), FPDLS(prior, gamma=.5), CompFPDLS(prior), FocalLoss(.5)):
            got, exact = z.clone().requires_grad_(), z.double().requires_grad_()
            (l := loss(got, y)).backward(); (m := loss(exact, y)).backward()
            assert l.dtype==torch.float32 and torch.allclose(l.double(), m, rtol=1e-5, atol=1e-6)
            assert torch.allclose(got.grad.double(), exact.grad, rtol=eps, atol=1e-6), (loss, scale)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_extreme_logits(dtype):
    "Every pair of extreme logits, every label: loss is not NaN, gradient is finite"
    prior, big = torch.softmax(torch.eye(8)*3, 1), torch.finfo(dtype).max
    values = torch.tensor([-big, -1e4, -100., 0., 100., 1e4, big])
    a, b, y = (o.flatten() for o in torch.meshgrid(values, values, torch.arange(3.), indexing='ij'))
    z, y = torch.stack([a, b, *[torch.zeros_like(a)]*6], 1).to(dtype), y.long()
    for loss in (CrossEntropy(), PDLS(prior), FPDLS(prior), FPDLS(prior, gamma=.5), FPDLS(prior, gamma=0), CompFPDLS(prior), FocalLoss(.1), UniformSmoothing(), SoftVoteCE()):
        x = z.clone().requires_grad_()
        l = loss(x, prior[y] if isinstance(loss, SoftVoteCE) else y)
        l.backward()
        assert not l.isnan() and x.grad.isfinite().all(), loss

def test_autocast_does_not_round_the_prior():
    torch.manual_seed(0)
    prior, z, y = torch.rand(8, 8), torch.randn(16, 8), torch.randint(0, 8, (16,))
    loss = FPDLS(prior/prior.sum(1, keepdim=True))
    with torch.autocast('cpu', torch.bfloat16): got = loss(z, y)
    assert torch.equal(got, loss(z, y))

def test_learns_with_confidence_one_and_gamma_below_one():
    "A model that is sure of everything keeps finite weights"
    lin = torch.nn.Linear(4, 4)
    torch.nn.init.eye_(lin.weight)
    opt = torch.optim.SGD(lin.parameters(), .1)
    for _ in range(20):
        l = FPDLS(torch.eye(4), 1, .5)(lin(torch.eye(4)*1e3), torch.arange(4)); opt.zero_grad(); l.backward(); opt.step()
    assert all(p.isfinite().all() for p in lin.parameters())

def test_one_graph_for_the_compiler():
    z, y, prior = torch.randn(16, 8), torch.randint(0, 8, (16,)), torch.full((8, 8), 1/8)
    for loss, t in ((FPDLS(prior), y), (CompFPDLS(prior, weight=torch.ones(8)), y), (SoftVoteCE(), prior[y])):
        assert torch.allclose(torch.compile(loss, backend='eager', fullgraph=True)(z, t), loss(z, t))

def test_module_manners():
    loss = FPDLS(torch.eye(3), .6, 1.5, weight=[1, 2, 3])
    assert set(loss.state_dict()) == {'prior', 'weight'}
    assert not list(loss.parameters())
    twin = copy.deepcopy(loss)
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(twin(z, y), loss(z, y))
    assert loss(z[:0], y[:0]).isnan() and loss(z, y.int())==loss(z, y)  # the mean of nothing, as in F.cross_entropy
    prior = torch.eye(3); loss = PDLS(prior); prior[0] = 5
    assert torch.equal(loss.prior, torch.eye(3)), 'the prior is a copy'

def test_fastai_tensor_types():
    from fastai.torch_core import TensorBase, TensorCategory
    z, y = torch.randn(6, 8), torch.randint(0, 8, (6,))
    l = FPDLS(torch.eye(8))(TensorBase(z), TensorCategory(y))
    assert type(l) is torch.Tensor and torch.equal(l, FPDLS(torch.eye(8))(z, y))

def test_imports_nothing_heavy():
    code = "import sys, fer_nr.loss; print(*[m for m in ('fastai', 'fastcore', 'nbdev', 'IPython', 'matplotlib', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()==''

def test_focal_factor_range():
    p = torch.linspace(0, 1, 101)
    for g in (0, .1, .5, 1, 2, 5):
        f = focal_factor(p.log(), g)
        assert torch.allclose(f[:-1], (1-p[:-1])**g, atol=2e-6) and ((0<=f)&(f<=1)).all()

@pytest.mark.parametrize('seed', range(5))
def test_prior_against_a_loop(seed):
    r = np.random.default_rng(seed)
    v = r.multinomial(10, r.dirichlet(np.ones(5)), 40)
    y = r.integers(0, 4, 40)  # class 4 has no images
    ref = np.stack([(v[y==k]/10).mean(0) if (y==k).any() else np.eye(5)[k] for k in range(5)])
    assert np.allclose(label_prior(v, y), ref, atol=1e-6)
    assert np.allclose(flat_prior(ref).sum(1), 1) and np.allclose(np.diag(flat_prior(ref)), np.diag(ref))

def test_prior_of_a_face_set():
    class Set: votes, labels = torch.tensor([[3., 1.], [0., 2.]]), torch.tensor([0, 1])
    assert torch.allclose(label_prior(Set), torch.tensor([[.75, .25], [0, 1]]))

def test_released_prior_says_what_is_wrong(tmp_path):
    (tmp_path/'a.csv').write_text('Usage,Image name,neutral\nTraining,a.png,9\n')
    with pytest.raises(ValueError, match='a.csv has no column happiness, surprise, .*NF: expected'): released_prior(tmp_path/'a.csv')
    with pytest.raises(FileNotFoundError, match='expected Microsoft'): released_prior(tmp_path)


def test_released_prior(fer2013):
    votes, labels = _released_votes(fer2013/'fer2013new.csv')
    assert labels.bincount().tolist() == [9030, 7335, 3173, 3047, 2054, 107, 510, 115]
    prior = released_prior(fer2013/'fer2013new.csv')
    assert [round(o, 6) for o in prior[0].tolist()] == [.777334, .032610, .017447, .114091, .026224, .007145, .004379, .020772]
    assert torch.allclose(prior.sum(1), torch.ones(8))
    seven = map_prior(prior, VOCAB, RAFDB)
    assert torch.allclose(seven[6, 4], prior[0, 3]/prior[0, :7].sum())  # sadness in neutral

def test_prior_of_the_training_images(fer2013):
    "The clean default on label.csv's 25,045 training images is within .0215 of the released matrix"
    import pandas as pd
    v = pd.read_csv(fer2013/'FER2013Train/label.csv', header=None).iloc[:, 2:12].to_numpy(float)
    many = np.where(v<=1, 0, v)
    keep = (many.max(1) > .5*many.sum(1)) & (many.argmax(1)<8)
    assert keep.sum() == 25045
    mine = label_prior(v[keep], many.argmax(1)[keep], n_classes=8)
    assert round(float((mine-released_prior(fer2013/'fer2013new.csv')).abs().max()), 4) == .0215

def test_minimiser_of_fpdls(fer2013):
    "METHOD: at alpha .8 the least loss is at p of about .75 for neutral and .72 for contempt"
    z = torch.zeros(8, 8, dtype=torch.float64, requires_grad=True)
    loss, opt = FPDLS(released_prior(fer2013/'fer2013new.csv')), torch.optim.LBFGS([z], max_iter=300, tolerance_grad=1e-8, tolerance_change=0, line_search_fn='strong_wolfe')
    def closure(): opt.zero_grad(); l = loss(z, torch.arange(8)); l.backward(); return l
    opt.step(closure)
    p = z.softmax(1).diagonal()
    assert abs(p[0]-.75)<.005 and abs(p[7]-.72)<.005
