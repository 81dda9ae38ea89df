"What 05_evaluation cannot show: many random cases against scikit-learn, scipy and statsmodels, and models that are not toys"
import json, math

import numpy as np, pytest, torch
from scipy.special import softmax
from scipy.stats import binom
from sklearn import metrics as skm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from torch import nn

from fer_nr.evaluation import (authors_accuracy, bootstrap, calibration, confusion_matrix, ece, evaluate, holm, mcnemar, predict,
                               temperature, wilson)


def case(seed):
    "Random sizes, imbalanced labels (some classes absent), logits that are right more often than not"
    r = np.random.default_rng(seed)
    n, K = int(r.integers(2, 400)), int(r.integers(2, 10))
    y = r.choice(K, n, p=r.dirichlet(np.full(K, .5)))
    z = r.normal(size=(n, K)) + r.uniform(0, 4)*np.eye(K)[y]
    return r, n, K, y, z

@pytest.mark.parametrize('seed', range(25))
def test_metrics_against_scikit_learn(seed):
    r, n, K, y, z = case(seed)
    m, pred, p, here = evaluate(z, y, n_boot=50), z.argmax(1), softmax(z, 1), np.unique(y)
    assert math.isclose(m['top1']['value'], skm.accuracy_score(y, pred)) and m['correct']==(y==pred).sum() and m['n']==n
    assert math.isclose(m['mean_class_accuracy']['value'], skm.recall_score(y, pred, labels=here, average='macro', zero_division=0))
    assert math.isclose(m['macro_f1']['value'], skm.f1_score(y, pred, labels=here, average='macro', zero_division=0))
    assert np.array_equal(m['confusion'], skm.confusion_matrix(y, pred, labels=range(K)))
    assert math.isclose(m['nll'], skm.log_loss(y, p, labels=range(K)), rel_tol=1e-9)
    assert math.isclose(m['majority'], np.bincount(y).max()/n)
    assert [k for k,v in m['recall'].items() if v['value'] is not None] == [str(k) for k in here]
    for k in ('top1', 'mean_class_accuracy', 'macro_f1'):
        assert 0 <= m[k]['low'] <= m[k]['high'] <= 1 and (k!='top1' or m[k]['low'] <= m[k]['value'] <= m[k]['high'])
    assert json.loads(json.dumps(m, allow_nan=False))==m

@pytest.mark.parametrize('seed', range(10))
def test_metrics_do_not_depend_on_the_order_or_the_kind_of_input(seed):
    r, n, K, y, z = case(seed)
    v, i = r.multinomial(10, np.full(K, 1/K), n), r.permutation(n)
    a, b = evaluate(z, y, v, n_boot=50), evaluate(torch.tensor(z[i]), torch.tensor(y[i]), torch.tensor(v[i]).float(), n_boot=50)
    for k in a: assert a[k]==b[k] or np.isclose(a[k], b[k]), k
    c = evaluate(torch.tensor(z).bfloat16(), y.tolist(), n_boot=50)
    assert abs(c['nll']-a['nll'])<.05

@pytest.mark.parametrize('seed', range(10))
def test_ece_against_a_loop(seed):
    r, n, K, y, z = case(seed)
    p, bins = softmax(z, 1), int(r.integers(1, 20))
    conf, hit, total = p.max(1), p.argmax(1)==y, 0
    for b in range(bins):
        i = (conf>b/bins)&(conf<=(b+1)/bins)
        if i.any(): total += i.mean()*abs(hit[i].mean()-conf[i].mean())
    assert math.isclose(ece(p, y, bins), total, abs_tol=1e-9)
    assert math.isclose(ece(torch.tensor(p), torch.tensor(y), bins), total, abs_tol=1e-9)

def test_wilson_against_statsmodels():
    for n in (1, 2, 7, 100, 3137):
        for k in {0, 1, n//2, n}: assert np.allclose(wilson(k, n), proportion_confint(k, n, method='wilson'), atol=1e-6)

def test_mcnemar_and_holm():
    r = np.random.default_rng(0)
    for _ in range(20):
        a, b = r.random(300)<.9, r.random(300)<.88
        lo, m = min((a&~b).sum(), (b&~a).sum()), (a!=b).sum()
        assert math.isclose(mcnemar(a, b)['p'], min(1, 2*binom.cdf(lo, m, .5)), rel_tol=1e-6) and mcnemar(torch.tensor(b), a)['p']==mcnemar(a, b)['p']
    for m in (1, 2, 8, 40):
        p = r.random(m)**2
        assert np.allclose(holm(p), multipletests(p, method='holm')[1])

def test_bootstrap_covers():
    "In 200 data sets from one source, the interval of the mean class accuracy holds the true value about 95 % of the time"
    r, truth, hit = np.random.default_rng(0), np.array([.9, .7, .5]), 0
    for s in range(200):
        n = r.multinomial(600, [.5, .3, .2])
        k = r.binomial(n, truth)
        C = np.diag(k); C[:, 0] += n-k; C[0, 0], C[0, 1] = k[0], n[0]-k[0]
        lo, hi = bootstrap(C, 300, s)[0]
        hit += lo<=truth.mean()<=hi
    assert 180 <= hit <= 199

def test_temperature_is_the_minimum_and_keeps_predictions():
    r = np.random.default_rng(0)
    z, y = r.normal(size=(500, 5))*4, r.integers(0, 5, 500)
    z[np.arange(500), y] += 3
    T = temperature(z, y)
    nll = [calibration(z/t, y)['nll'] for t in (T*.98, T, T*1.02)]
    assert nll[1]<nll[0] and nll[1]<nll[2]
    assert temperature(np.eye(3)*9, [0, 1, 2])<.5  # no error: the surer the better
    with pytest.raises(ValueError, match='not finite'): temperature([[float('nan'), 0]], [0])

def test_extreme_logits_give_json():
    z = np.array([[1e30, -1e30, 0], [-1e4, 0, 1e4]])
    json.dumps(evaluate(z, [1, 2], [[1, 0, 0], [0, 0, 10]]), allow_nan=False)

def test_size_and_batches_of_the_released_accuracy():
    assert authors_accuracy([1]*64+[0])==.5 and authors_accuracy([True]*10)==1.
    assert math.isclose(authors_accuracy(np.r_[np.ones(96), np.zeros(32)]), .75)


class Net(nn.Module):
    "Batch norm, dropout, a frozen part, and noise in training mode"
    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        self.trunk = nn.Sequential(nn.Conv2d(4, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(.3), nn.Flatten(), nn.LazyLinear(5))
    def forward(self, x):
        if self.training: x = x + torch.rand_like(x)
        return self.trunk(self.frozen(x))

@pytest.fixture
def net():
    torch.manual_seed(0)
    m = Net()
    for _ in range(3): m(torch.rand(16, 3, 16, 16))
    return m

def test_predict(net):
    x = torch.randint(0, 256, (37, 3, 16, 16), dtype=torch.uint8)
    class Faces: images = x
    before, rng = {k:v.clone() for k,v in net.state_dict().items()}, torch.get_rng_state()
    z = predict(net, Faces, bs=8)
    assert z.shape==(37, 5) and z.dtype==torch.float32 and not z.requires_grad
    assert torch.equal(z, predict(net, Faces, bs=8)) and torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k,v in net.state_dict().items())
    assert net.training and net.trunk[1].training and not net.frozen[1].training
    i = torch.randperm(37)
    for bs in (1, 5, 37, 1000):
        other = predict(net, x[i], bs=bs)
        assert torch.allclose(other, z[i], atol=1e-5) and torch.equal(other.argmax(1), z[i].argmax(1))
    assert torch.allclose(predict(net, x.numpy()), z, atol=1e-5)

def test_predict_restores_the_mode_after_an_error(net):
    with pytest.raises(RuntimeError): predict(net, torch.rand(4, 1, 16, 16))  # wrong number of channels
    assert net.training and net.trunk[1].training and not net.frozen[1].training

def test_predict_names_the_broken_image(net):
    x = torch.rand(20, 3, 16, 16); x[13] = float('inf')
    with pytest.raises(ValueError, match='1 of 20 images have logits that are not finite, first image 13'): predict(net, x, bs=8)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_predict_on_cuda(net):
    x = torch.randint(0, 256, (37, 3, 16, 16), dtype=torch.uint8)
    z = predict(net, x)
    assert torch.allclose(predict(net.cuda(), x, bs=5), z, atol=1e-3) and next(net.parameters()).is_cuda
    assert evaluate(predict(net, x).cuda(), z.argmax(1).cuda())['correct']==37
