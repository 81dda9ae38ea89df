"What 02_loss cannot show: random cases against a float64 formula, half precision, real FER+"
import copy

import numpy as np
import pytest
import torch

from fer_nr.loss import (RELEASED, CompFPDLS, CrossEntropy, FocalLoss, FPDLS, PDLS, SoftVoteCE,
                         UniformSmoothing, flat_prior, focal_factor, label_prior, released_prior,
                         released_votes)
from fer_nr.registry import parts


def case(seed, most=12):
    "Random classes, batch, prior, alpha, gamma"
    r = np.random.default_rng(seed)
    K, B = r.integers(2, most), r.integers(1, most)
    return dict(r=r, K=K, B=B, prior=r.dirichlet(np.ones(K), K), alpha=r.uniform(),
                gamma=r.choice([0, .3, 1, 2, 3.7]), z=r.normal(size=(B, K))*r.choice([.1, 1, 5]),
                y=r.integers(0, K, B))


def losses(c):
    "Class, arguments, target distributions and focal factor of each loss, written down once more"
    alpha, gamma, prior, K = c['alpha'], c['gamma'], c['prior'], c['K']
    one_hot = np.eye(K)
    mix = alpha*one_hot + (1-alpha)*prior
    return [(CrossEntropy, {}, one_hot, lambda p: 1.),
            (PDLS, dict(prior=prior, alpha=alpha), mix, lambda p: 1.),
            (FPDLS, dict(prior=prior, alpha=alpha, gamma=gamma), mix, lambda p: (1-p)**gamma),
            (CompFPDLS, dict(prior=prior, alpha=alpha), mix, lambda p: (1-p)*K/(K-1)),
            (FocalLoss, dict(gamma=gamma), one_hot, lambda p: (1-p)**gamma),
            (UniformSmoothing, dict(alpha=alpha), alpha*one_hot + (1-alpha)/K, lambda p: 1.)]


@pytest.mark.parametrize('seed', range(30))
def test_against_the_formula(seed):
    c = case(seed)
    p = np.exp(c['z'])
    p /= p.sum(1, keepdims=True)
    w = c['r'].uniform(.1, 3, c['K'])
    z, y, own = torch.tensor(c['z']), torch.tensor(c['y']), w[c['y']]
    for cls, kw, q, factor in losses(c):
        each = -(q[c['y']]*factor(p)*np.log(p)).sum(1)
        assert np.allclose(cls(**kw, reduction='none')(z, y), each, rtol=1e-5), cls
        assert np.allclose(cls(**kw)(z, y), each.mean(), rtol=1e-5)
        assert np.allclose(cls(**kw, weight=w)(z, y), (each*own).sum()/own.sum(), rtol=1e-5)
        assert np.allclose(cls(**kw, weight=w, reduction='sum')(z, y), (each*own).sum(), rtol=1e-5)


@pytest.mark.parametrize('seed', range(6))
def test_gradients(seed):
    c = case(seed, most=5)
    z, y = torch.tensor(c['z'], requires_grad=True), torch.tensor(c['y'])
    for cls, kw, *_ in losses(c):
        assert torch.autograd.gradcheck(lambda z: cls(**kw)(z, y), z)
    votes = torch.tensor(c['r'].dirichlet(np.ones(c['K']), c['B']))
    assert torch.autograd.gradcheck(lambda z: SoftVoteCE()(z, votes), z)


@pytest.mark.parametrize('dtype,eps', [(torch.bfloat16, 2**-8), (torch.float16, 2**-10)])
def test_half_precision_is_exact_but_for_its_own_rounding(dtype, eps):
    torch.manual_seed(0)
    prior = torch.softmax(torch.eye(8)*3, 1)
    for scale in (1, 10, 100, 1000):
        z, y = (torch.randn(64, 8)*scale).to(dtype), torch.randint(0, 8, (64,))
        for loss in (PDLS(prior), FPDLS(prior), FPDLS(prior, gamma=.5), CompFPDLS(prior),
                     FocalLoss(.5)):
            half, exact = z.clone().requires_grad_(), z.double().requires_grad_()
            value, reference = loss(half, y), loss(exact, y)
            value.backward()
            reference.backward()
            assert value.dtype == torch.float32
            assert torch.allclose(value.double(), reference, rtol=1e-5, atol=1e-6)
            close = torch.allclose(half.grad.double(), exact.grad, rtol=eps, atol=1e-6)
            assert close, (loss, scale)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_extreme_logits(dtype):
    "Every pair of extreme logits, every label: loss is not NaN, gradient is finite"
    prior, big = torch.softmax(torch.eye(8)*3, 1), torch.finfo(dtype).max
    values = torch.tensor([-big, -1e4, -100., 0., 100., 1e4, big])
    a, b, y = (o.flatten() for o in torch.meshgrid(values, values, torch.arange(3.), indexing='ij'))
    z, y = torch.stack([a, b, *[torch.zeros_like(a)]*6], 1).to(dtype), y.long()
    for loss in (CrossEntropy(), PDLS(prior), FPDLS(prior), FPDLS(prior, gamma=.5),
                 FPDLS(prior, gamma=0), CompFPDLS(prior), FocalLoss(.1), UniformSmoothing(),
                 SoftVoteCE()):
        x = z.clone().requires_grad_()
        value = loss(x, prior[y] if isinstance(loss, SoftVoteCE) else y)
        value.backward()
        assert not value.isnan() and x.grad.isfinite().all(), loss


def test_autocast_does_not_round_the_prior():
    torch.manual_seed(0)
    prior, z, y = torch.rand(8, 8), torch.randn(16, 8), torch.randint(0, 8, (16,))
    loss = FPDLS(prior/prior.sum(1, keepdim=True))
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(z, y)
    assert torch.equal(value, loss(z, y))


def test_learns_with_confidence_one_and_gamma_below_one():
    "A model that is sure of everything keeps finite weights"
    linear = torch.nn.Linear(4, 4)
    torch.nn.init.eye_(linear.weight)
    optimiser = torch.optim.SGD(linear.parameters(), .1)
    for _ in range(20):
        optimiser.zero_grad()
        FPDLS(torch.eye(4), 1, .5)(linear(torch.eye(4)*1e3), torch.arange(4)).backward()
        optimiser.step()
    assert all(p.isfinite().all() for p in linear.parameters())


def test_one_graph_for_the_compiler():
    z, y, prior = torch.randn(16, 8), torch.randint(0, 8, (16,)), torch.full((8, 8), 1/8)
    weighted = CompFPDLS(prior, weight=torch.ones(8))
    for loss, target in ((FPDLS(prior), y), (weighted, y), (SoftVoteCE(), prior[y])):
        compiled = torch.compile(loss, backend='eager', fullgraph=True)
        assert torch.allclose(compiled(z, target), loss(z, target))


def test_module_manners():
    loss = FPDLS(torch.eye(3), .6, 1.5, weight=[1, 2, 3])
    assert set(loss.state_dict()) == {'prior', 'weight'}
    assert not list(loss.parameters())
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(copy.deepcopy(loss)(z, y), loss(z, y))
    assert loss(z[:0], y[:0]).isnan()  # the mean of nothing, as in torch
    assert loss(z, y.int()) == loss(z, y)
    prior = torch.eye(3)
    loss = PDLS(prior)
    prior[0] = 5
    assert torch.equal(loss.prior, torch.eye(3)), 'the prior is a copy'


def test_fastai_tensor_types():
    from fastai.torch_core import TensorBase, TensorCategory
    z, y = torch.randn(6, 8), torch.randint(0, 8, (6,))
    loss = FPDLS(torch.eye(8))
    value = loss(TensorBase(z), TensorCategory(y))
    assert type(value) is torch.Tensor and torch.equal(value, loss(z, y))


def test_every_registered_loss_takes_what_it_names_and_no_more():
    fields = dict(prior=torch.full((8, 8), 1/8), alpha=.7, gamma=1.5)
    z, y = torch.randn(4, 8), torch.randint(0, 8, (4,))
    for loss in parts('loss').values():
        built = loss.build(**{name: fields[name] for name in loss.uses})
        target = fields['prior'][y] if loss.facts.get('target') == 'votes' else y
        assert built(z, target).isfinite(), loss.name
        for name in set(loss.uses) - {'prior'}:
            assert getattr(built, name) == fields[name]


def test_focal_factor_range():
    p = torch.linspace(0, 1, 101)
    for gamma in (0, .1, .5, 1, 2, 5):
        factor = focal_factor(p.log(), gamma)
        assert torch.allclose(factor[:-1], (1-p[:-1])**gamma, atol=2e-6)
        assert ((0 <= factor) & (factor <= 1)).all()


@pytest.mark.parametrize('seed', range(5))
def test_prior_against_a_loop(seed):
    r = np.random.default_rng(seed)
    v = r.multinomial(10, r.dirichlet(np.ones(5)), 40)
    y = r.integers(0, 4, 40)  # class 4 has no images
    reference = np.eye(5)
    for k in range(4):
        if (y == k).any():
            reference[k] = (v[y == k]/10).mean(0)
    assert np.allclose(label_prior(v, y), reference, atol=1e-6)
    flat = flat_prior(reference)
    assert np.allclose(flat.sum(1), 1) and np.allclose(np.diag(flat), np.diag(reference))


def test_votes_that_are_no_counts():
    for votes in ([[1., -1.]], [[float('nan'), 1.]], [[0., 0.]]):
        with pytest.raises(ValueError, match='image 0 has no votes for the 2 classes'):
            label_prior(votes)


def test_released_prior_says_what_is_wrong(tmp_path):
    (tmp_path/'a.csv').write_text('Usage,Image name,neutral\nTraining,a.png,9\n')
    with pytest.raises(ValueError, match='a.csv has no column happiness, surprise, .*NF: expected'):
        released_prior(tmp_path/'a.csv')
    with pytest.raises(FileNotFoundError, match='expected Microsoft'):
        released_prior(tmp_path)


def test_released_prior(fer2013):
    "The committed matrix is what the release's recipe gives, to its six decimals"
    csv = fer2013/'fer2013new.csv'
    images = [9030, 7335, 3173, 3047, 2054, 107, 510, 115]  # a class, in the release
    assert released_votes(csv)[1].bincount().tolist() == images
    computed = released_prior(csv)
    assert np.array_equal(computed.double().numpy().round(6), list(RELEASED.values()))
    assert torch.allclose(released_prior(), computed, atol=3e-6)  # rows are made to sum to one


def test_prior_of_the_training_images(fer2013):
    "The clean default on label.csv's 25,045 training images is within .0215 of the released matrix"
    import pandas as pd
    votes = pd.read_csv(fer2013/'FER2013Train/label.csv', header=None).iloc[:, 2:12].to_numpy(float)
    many = np.where(votes <= 1, 0, votes)
    keep = (many.max(1) > .5*many.sum(1)) & (many.argmax(1) < 8)
    assert keep.sum() == 25045
    mine = label_prior(votes[keep], many.argmax(1)[keep], n_classes=8)
    assert round(float((mine-released_prior(fer2013/'fer2013new.csv')).abs().max()), 4) == .0215
