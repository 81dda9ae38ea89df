"What 05_evaluation cannot show: random cases against scikit-learn, real models, published records"
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics as skm
from torch import nn

from fer_nr.evaluation import (authors_accuracy, bootstrap, calibration, decode_classes, ece,
                               encode_classes, evaluate, measure, plot_confusion, plot_recall,
                               predict, reliability, temperature)

RESULTS = Path(__file__).parents[1]/'results'


def case(seed):
    "Random sizes, imbalanced labels (some classes absent), logits that are more often right"
    r = np.random.default_rng(seed)
    n, K = int(r.integers(2, 400)), int(r.integers(2, 10))
    y = r.choice(K, n, p=r.dirichlet(np.full(K, .5)))
    z = r.normal(size=(n, K)) + r.uniform(0, 4)*np.eye(K)[y]
    return r, n, K, y, z


@pytest.mark.parametrize('seed', range(25))
def test_metrics_against_scikit_learn(seed):
    r, n, K, y, z = case(seed)
    m, pred, p, here = evaluate(z, y, n_boot=50), z.argmax(1), softmax(z, 1), np.unique(y)
    macro = dict(labels=here, average='macro', zero_division=0)
    assert m['correct'] == (y == pred).sum() and m['n'] == n
    assert math.isclose(m['top1']['value'], skm.accuracy_score(y, pred))
    assert math.isclose(m['mean_class_accuracy']['value'], skm.recall_score(y, pred, **macro))
    assert math.isclose(m['macro_f1']['value'], skm.f1_score(y, pred, **macro))
    assert np.array_equal(m['confusion'], skm.confusion_matrix(y, pred, labels=range(K)))
    assert math.isclose(m['nll'], skm.log_loss(y, p, labels=range(K)), rel_tol=1e-9)
    assert math.isclose(m['majority'], np.bincount(y).max()/n)
    assert [k for k, v in m['recall'].items() if v['value'] is not None] == [str(k) for k in here]
    for key in ('top1', 'mean_class_accuracy', 'macro_f1'):
        assert 0 <= m[key]['low'] <= m[key]['high'] <= 1
    assert m['top1']['low'] <= m['top1']['value'] <= m['top1']['high']
    assert json.loads(json.dumps(m, allow_nan=False)) == m
    for name, value in measure(y, logits=z).items():  # on demand, the same
        assert math.isclose(value, m[name]['value'] if isinstance(m[name], dict) else m[name])


@pytest.mark.parametrize('seed', range(10))
def test_metrics_do_not_depend_on_the_order_or_the_kind_of_input(seed):
    r, n, K, y, z = case(seed)
    v, i = r.multinomial(10, np.full(K, 1/K), n), r.permutation(n)
    a = evaluate(z, y, v, n_boot=50)
    b = evaluate(torch.tensor(z[i]), torch.tensor(y[i]), torch.tensor(v[i]).float(), n_boot=50)
    for key in a:
        assert a[key] == b[key] or np.isclose(a[key], b[key]), key
    half = evaluate(torch.tensor(z).bfloat16(), y.tolist(), n_boot=50)
    assert abs(half['nll']-a['nll']) < .05


@pytest.mark.parametrize('seed', range(10))
def test_ece_against_a_loop(seed):
    r, n, K, y, z = case(seed)
    p, bins = softmax(z, 1), int(r.integers(1, 20))
    confidence, right, total = p.max(1), p.argmax(1) == y, 0
    for b in range(bins):
        i = (confidence > b/bins) & (confidence <= (b+1)/bins)
        if i.any():
            total += i.mean()*abs(right[i].mean()-confidence[i].mean())
    assert math.isclose(ece(p, y, bins), total, abs_tol=1e-9)
    assert math.isclose(ece(torch.tensor(p), torch.tensor(y), bins), total, abs_tol=1e-9)


def test_bootstrap_covers():
    "In 200 sets from one source, the interval holds the true mean class accuracy in about 95 %"
    r, truth, holds = np.random.default_rng(0), np.array([.9, .7, .5]), 0
    for _ in range(200):
        n = r.multinomial(600, [.5, .3, .2])
        right = r.binomial(n, truth)
        counts = np.diag(right)
        counts[[0, 1, 2], [1, 0, 0]] = n-right
        low, high = bootstrap(counts, 300, 0)[0]
        holds += low <= truth.mean() <= high
    assert 180 <= holds <= 199


def test_temperature_is_the_minimum():
    r = np.random.default_rng(0)
    z, y = r.normal(size=(500, 5))*4, r.integers(0, 5, 500)
    z[np.arange(500), y] += 3
    T = temperature(z, y)
    nll = [calibration(z/t, y)['nll'] for t in (T*.98, T, T*1.02)]
    assert nll[1] < nll[0] and nll[1] < nll[2]
    assert temperature(np.eye(3)*9, [0, 1, 2]) < .5  # no error: the surer the better


def test_extreme_logits_give_json():
    z = np.array([[1e30, -1e30, 0], [-1e4, 0, 1e4]])
    json.dumps(evaluate(z, [1, 2], [[1, 0, 0], [0, 0, 10]]), allow_nan=False)


def test_size_and_batches_of_the_released_accuracy():
    assert authors_accuracy([1]*64+[0]) == .5 and authors_accuracy([True]*10) == 1.
    assert math.isclose(authors_accuracy(np.r_[np.ones(96), np.zeros(32)]), .75)


# ---- what does not fit is one line

GOOD = np.array([[2., 1., 0.], [0., 3., 1.]])
BAD = [(dict(logits=GOOD[0]), 'logits are (3,)'), (dict(logits=[['a', 'b']]), 'logits are (1, 2)'),
       (dict(logits=GOOD*np.nan), '2 of 2 images'), (dict(logits=GOOD.astype(complex)), 'complex'),
       (dict(logits=softmax(GOOD, 1)), 'probabilities'),
       (dict(logits=100*softmax(GOOD, 1)), 'percentages'),
       (dict(logits=torch.tensor(softmax(GOOD, 1)).bfloat16()), 'probabilities'),
       (dict(labels=[0, 1, 2]), 'expected (2,)'), (dict(labels=[0, 3]), '0 to 3: expected 0 to 2'),
       (dict(labels=[-1, 0]), '-1 to 0'), (dict(labels=[0., 1.]), 'float64: expected (2,)'),
       (dict(labels=[True, False]), 'bool'), (dict(labels=[[0, 1]]), '(1, 2)'),
       (dict(labels=['a', 'b']), 'expected (2,) class numbers'),
       (dict(votes=[[1, 2, 3]]), 'votes are (1, 3)'), (dict(votes=[[0, 0, 0], [1, 0, 0]]), 'vote'),
       (dict(votes=[[np.nan, 1, 1], [1, 0, 0]]), 'vote'), (dict(votes=-GOOD), 'vote')]


@pytest.mark.parametrize('change,words', BAD)
@pytest.mark.parametrize('function', [evaluate, calibration, temperature, reliability, measure])
def test_what_does_not_fit(function, change, words):
    if 'votes' in change and function in (temperature, reliability):
        return
    given = dict(logits=GOOD, labels=[0, 1]) | change
    with pytest.raises(ValueError) as error:
        function(given.pop('labels'), **given) if function is measure else function(**given)
    assert words in str(error.value) and '\n' not in str(error.value)


def test_predictions_that_do_not_fit_the_labels():
    for predictions in ([1], [1, 2, 0], [.5, 1.], [-1, 0]):
        with pytest.raises(ValueError, match='predictions (are|run)'):
            measure([0, 1], predictions)


# ---- records

@pytest.mark.parametrize('seed', range(5))
def test_classes_to_a_string_and_back(seed):
    r = np.random.default_rng(seed)
    for K in (2, 8, 36, 37, 1000):
        classes = r.integers(0, K, r.integers(0, 50))
        text = encode_classes(torch.tensor(classes))
        assert np.array_equal(decode_classes(text, len(classes)), classes) and text.isprintable()
        if classes.max(initial=0) < 36:
            assert [int(o, 36) for o in text] == classes.tolist()  # as in records of all ages


@pytest.mark.parametrize('text', ['0 1', '1,x,', '1,,2,', '-1,', 'A', 'é', '²'])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match='is no class'):
        decode_classes(text)


@pytest.mark.parametrize('path', sorted(RESULTS.glob('*.json')), ids=lambda path: path.stem)
def test_published_numbers_come_from_the_published_predictions(path):
    record = json.loads(path.read_text())
    for split, text in record['predictions'].items():
        labels = decode_classes(record['labels'][split])
        values = measure(labels, decode_classes(text, len(labels)))
        for name, value in values.items():
            kept = record['metrics'][split][name]
            assert math.isclose(value, kept['value'] if isinstance(kept, dict) else kept), name


def test_figures_of_any_number_of_models_and_classes():
    metrics = evaluate(GOOD, [0, 1], vocab=['a', 'b', 'c'])
    ax = plot_recall({'one': metrics['recall'], 'two': metrics['recall']})
    assert len(ax.containers) == 2
    assert [o.get_text() for o in ax.get_xticklabels()] == ['a\n1', 'b\n1']
    ax = plot_confusion([[3, 1], [0, 0]], ['a', 'b'], rates=True)
    assert sorted(o.get_text() for o in ax.texts) == ['25', '75']


# ---- predictions

class Net(nn.Module):
    "Batch norm, dropout, a frozen part, and noise in training mode"
    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        self.trunk = nn.Sequential(nn.Conv2d(4, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(),
                                   nn.Dropout(.3), nn.Flatten(), nn.LazyLinear(5))

    def forward(self, x):
        if self.training:
            x = x + torch.rand_like(x)
        return self.trunk(self.frozen(x))


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net()
    for _ in range(3):
        model(torch.rand(16, 3, 16, 16))
    return model


def modes(net): return net.training, net.trunk[1].training, net.frozen[1].training


def test_predict(net):
    x = torch.randint(0, 256, (37, 3, 16, 16), dtype=torch.uint8)

    class Faces:
        images = x
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    z = predict(net, Faces, bs=8)
    assert z.shape == (37, 5) and z.dtype == torch.float32 and not z.requires_grad
    assert torch.equal(z, predict(net, Faces, bs=8)) and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert modes(net) == (True, True, False)
    i = torch.randperm(37)
    for bs in (1, 5, 37, 1000):
        other = predict(net, x[i], bs=bs)
        assert torch.allclose(other, z[i], atol=1e-5)
        assert torch.equal(other.argmax(1), z[i].argmax(1))
    assert torch.allclose(predict(net, x.numpy()), z, atol=1e-5)


def test_predict_restores_the_mode_after_an_error(net):
    with pytest.raises(RuntimeError):
        predict(net, torch.rand(4, 1, 16, 16))  # wrong number of channels
    assert modes(net) == (True, True, False)


def test_predict_names_the_broken_image(net):
    x = torch.rand(20, 3, 16, 16)
    x[13] = float('inf')
    with pytest.raises(ValueError, match='1 of 20 .* not finite, first image 13'):
        predict(net, x, bs=8)


@pytest.mark.parametrize('images,words', [
    (torch.full((2, 3, 16, 16), 200.), 'found values up to 200, expected'),
    (torch.full((2, 3, 16, 16), 200.).half(), 'found values up to 200, expected'),
    (np.full((2, 3, 16, 16), 255, np.float32), 'found values up to 255, expected'),
    (torch.randn(9, 3, 16, 16), 'found values down to'),
    (np.zeros((2, 3, 16, 16), np.int32), 'torch.int32'), (torch.zeros(3, 16, 16), '(3, 16, 16)'),
    (torch.zeros(2, 3, 16, 16, dtype=torch.bool), 'torch.bool'), ('faces', 'found str'),
    (dict(test=1), 'found dict'), (None, 'found NoneType')])
def test_predict_refuses_what_is_no_image(net, images, words):
    with pytest.raises(ValueError) as error:
        predict(net, images)
    assert words in str(error.value) and '\n' not in str(error.value)


def test_predict_refuses_a_model_that_gives_no_logits(net):
    with pytest.raises(ValueError, match='expected logits'):
        predict(net.frozen, torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match='bs is 0'):
        predict(net, torch.rand(2, 3, 16, 16), bs=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_predict_on_cuda(net):
    x = torch.randint(0, 256, (37, 3, 16, 16), dtype=torch.uint8)
    z = predict(net, x)
    assert torch.allclose(predict(net.cuda(), x, bs=5), z, atol=1e-3)
    assert next(net.parameters()).is_cuda
    assert evaluate(predict(net, x).cuda(), z.argmax(1).cuda())['correct'] == 37
