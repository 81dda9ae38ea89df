"""The methods of Table 4 against values of the code that their authors released (RAN, SCN, PSR)
and of scikit-image's patterns."""
import json
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.testing import assert_close

from fer_nr.backbone import fer_model
from fer_nr.comparators import (RAN, SCN, VIEWS, RegionAttention, certain_images, crop_views,
                                rank_biased_loss, rank_regularisation, relabelled)
from fer_nr.hybrids import EDSR, PSR, BranchLoss, local_binary_patterns
from fer_nr.loss import SoftVoteCE
from fer_nr.resizer import STN, NeuralResizer

EXACT = dict(rtol=1e-5, atol=2e-6)


@pytest.fixture
def reference(reference_folder):
    "name -> (tensors, numbers) of the reference values"

    def read(name):
        numbers = reference_folder/f'{name}.json'
        tensors = load_file(reference_folder/f'{name}.safetensors')
        return tensors, json.loads(numbers.read_text()) if numbers.exists() else {}

    return read


def filled(name, shape, gain=1.5):
    "A tensor filled by rule: normal numbers whose seed is the CRC of the tensor's canonical name"
    draws = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    kind = name.rsplit('.', 1)[1]
    if kind == 'running_mean':
        values = .1*draws
    elif kind == 'running_var':
        values = np.exp(.2*draws)
    elif kind == 'bias':
        values = .1*draws
    elif len(shape) == 1:
        values = 1 + .1*draws
    elif len(shape) == 4:
        values = draws*np.sqrt(gain/np.prod(shape[1:]))
    else:
        values = draws/np.sqrt(shape[1])
    return torch.tensor(values, dtype=torch.float32)


def fill(module, names, by_rule=None, gain=1.5):
    """Fill a module's tensors; `names`: own name -> canonical name

    Compares with the sums that the reference tells.
    """
    for own, tensor in module.state_dict().items():
        if own.endswith('num_batches_tracked'):
            continue
        name = names(own)
        tensor.copy_(filled(name, tuple(tensor.shape), gain))
        if by_rule:
            expected = pytest.approx(by_rule[name]['sum'], rel=1e-4, abs=1e-2)
            assert tensor.sum().item() == expected, name


def resnet(size, n_classes):
    "ResNet-18 without normalisation"
    resizer = NeuralResizer('images', down='none', in_size=size, up_size=size, size=size)
    model = fer_model('resnet18', resizer, n_classes, head='linear')
    model.mean.zero_()  # the reference has no normalisation
    model.std.fill_(1)
    return model


@pytest.mark.parametrize('views', [6, 8])
def test_ran_head(reference, views):
    "The aggregation, the margin loss and all their gradients"
    tensors, numbers = reference(f'ran_head_{views}views')
    for softmax, mu_name in ((False, 'mu'), (True, 'mu_softmax')):
        head = RegionAttention(512, 8, softmax)
        for name in ('w0', 'w1', 'fc'):
            layer = getattr(head, name)
            layer.weight.data = tensors[f'{name}_weight'].reshape(layer.weight.shape)
            layer.bias.data = tensors[f'{name}_bias'].reshape(-1)
        features = tensors['features'].clone().requires_grad_()
        mu = head.attend(features)
        assert_close(mu, tensors[mu_name], **EXACT)
    pooled = head.pool(features, mu)
    assert_close(pooled, tensors['P'], **EXACT)
    logits = head(pooled)
    assert_close(logits, tensors['logits'], **EXACT)
    rank = rank_biased_loss(mu, numbers['margin'])
    assert_close(rank, tensors['rb'].squeeze(), **EXACT)
    loss = F.cross_entropy(logits, tensors['labels']) + rank
    assert_close(loss, tensors['loss'].squeeze(), **EXACT)
    loss.backward()
    assert_close(features.grad, tensors['grad_features'], rtol=1e-4, atol=1e-7)
    assert_close(head.w0.weight.grad, tensors['grad_w0_weight'], rtol=1e-4, atol=1e-6)
    assert_close(head.w1.weight.grad, tensors['grad_w1_weight'], rtol=1e-4, atol=1e-6)


def test_ran_network(reference):
    """Views through one ResNet-18, then the head

    In evaluation, and in training with statistics for each view.
    """
    tensors, numbers = reference('ran_net')
    model = RAN(resnet(64, 8), 8, softmax=True)
    fill(model.trunk, lambda own: f'ran.trunk.{own}', numbers['weights_by_rule'])
    fill(model.head, lambda own: f'ran.{own}', numbers['weights_by_rule'])
    views = tensors['views']
    with torch.no_grad():
        features = model.trunk.eval()(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        assert_close(features, tensors['eval_features'], rtol=1e-4, atol=1e-4)
        sigmoid = torch.sigmoid(model.head.w0(features)).squeeze(-1)  # before the soft-max
        assert_close(sigmoid, tensors['eval_mu'], rtol=1e-4, atol=1e-5)
        mu = model.head.attend(features)
        logits = model.head(model.head.pool(features, mu))
        assert_close(logits, tensors['eval_logits'], rtol=1e-4, atol=1e-4)
    model.trunk.train()
    features = torch.stack([model.trunk(view) for view in views.unbind(1)], 1)
    assert_close(features, tensors['train_features'], rtol=1e-4, atol=1e-4)
    first_norm = model.trunk.bn1
    mean, variance = tensors['after_bn1_running_mean'], tensors['after_bn1_running_var']
    assert_close(first_norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    assert_close(first_norm.running_var, variance, rtol=1e-4, atol=1e-5)


def test_ran_boxes(reference):
    "The eight views of the released code, as whole pixels, for each size"
    _, numbers = reference('ran_views')
    for size, expected in numbers['sizes'].items():
        pixels = [[int(edge*int(size) + 1e-9) for edge in box] for box in VIEWS['code8']]
        boxes = expected['boxes_left_top_right_bottom']
        assert pixels[:len(boxes)] == boxes


def test_views_are_crops():
    "A box on whole pixels, at its own size, is the crop itself"
    x = torch.rand(2, 3, 48, 48)
    views = crop_views(x, torch.tensor([[.25, 0, 1, .75]]))
    crop = F.interpolate(x[:, :, :36, 12:], (48, 48), mode='bilinear', align_corners=False)
    inner = crop[:, :, 2:-2, 2:-2]
    assert_close(views[:, 0, :, 2:-2, 2:-2], inner, rtol=1e-4, atol=1e-5)


SCN_CASES = ['b12_k7_none', 'b21_k8', 'b64_k7', 'b64_k8_d2_big', 'b64_k8_flat', 'b64_k8_wide',
             'b90_k8']


@pytest.mark.parametrize('case', SCN_CASES)
def test_scn_step(reference, case):
    "Weighting, rank regularisation, its gradient, and relabelling of one batch"
    all_tensors, all_numbers = reference('scn_step')
    tensors = {name.partition('.')[2]: tensor for name, tensor in all_tensors.items()
               if name.startswith(f'{case}.')}
    numbers, labels = all_numbers[case], tensors['labels']
    alpha_logit = tensors['alpha_logit'].reshape(-1).clone().requires_grad_()
    raw = tensors['raw_logits'].clone().requires_grad_()
    alpha = torch.sigmoid(alpha_logit)
    weighted = alpha[:, None]*raw
    assert_close(weighted, tensors['weighted_logits'], **EXACT)
    certain = certain_images(alpha, numbers['beta'])
    assert int(certain.sum()) == numbers['high']
    rank = rank_regularisation(alpha, numbers['beta'], numbers['margin_1'])
    assert rank.item() == pytest.approx(numbers['rr'], rel=1e-5, abs=1e-6)
    loss = F.cross_entropy(weighted, labels) + rank
    assert loss.item() == pytest.approx(numbers['loss'], rel=1e-5)
    loss.backward()
    grad_alpha_logit = tensors['grad_alpha_logit'].reshape(-1)
    assert_close(alpha_logit.grad, grad_alpha_logit, rtol=1e-4, atol=1e-7)
    assert_close(raw.grad, tensors['grad_raw_logits'], rtol=1e-4, atol=1e-7)
    after = relabelled(weighted, labels, numbers['margin_2'])
    assert torch.equal(after, tensors['labels_after'])
    assert int((after != labels).sum()) == numbers['relabelled']


def test_scn_sequence(reference):
    "Twelve batches one after the other: the stored labels after each of them"
    tensors, numbers = reference('scn_sequence')
    labels = tensors['labels_first'].clone()
    start = 0
    for step, expected in zip(numbers['steps'], tensors['labels_after_each_step']):
        left = numbers['images'] - step['batch']*numbers['batch']
        end = start + min(numbers['batch'], left)
        where, logits = tensors['order'][start:end], tensors['logits'][start:end]
        start = end
        if step['epoch'] >= numbers['relabel_from_epoch']:
            labels[where] = relabelled(logits, labels[where], numbers['margin_2'])
        assert torch.equal(labels, expected), step


def test_scn_network(reference):
    tensors, numbers = reference('scn_net')
    model = SCN(resnet(64, 7), 7).eval()
    fill(model.trunk, lambda own: f'scn.trunk.{own}', numbers['weights_by_rule'])
    fill(model.head, lambda own: f'scn.{own}', numbers['weights_by_rule'])
    seen = []
    model.observe.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        logits = model(tensors['images'])
    assert_close(seen[0], tensors['eval_alpha'].reshape(-1), **EXACT)
    assert_close(logits, tensors['eval_logits'], rtol=1e-4, atol=1e-4)


def test_edsr(reference):
    tensors, numbers = reference('psr_edsr_x2')
    net = EDSR(bilinear=False)
    fill(net, lambda own: f'edsr.{own}', None, numbers['conv_gain'])
    for block in net.body[:-1]:
        block.body[2].weight.data *= .1
    with torch.no_grad():
        assert_close(net(tensors['images']), tensors['out'], rtol=1e-4, atol=1e-4)


# layers of the spatial transformer: ours -> theirs
LAYERS = {'localise.0': 'localization.0', 'localise.3': 'localization.3', 'localise.7': 'fc_loc.0',
          'localise.9': 'fc_loc.2'}


def test_psr_stn(reference):
    "PSR's spatial transformer is the one of the resizer"
    tensors, numbers = reference('psr_stn')
    stn = STN(numbers['img_size'])
    state = {f'{own}.{kind}': tensors[f'weights.{theirs}.{kind}']
             for own, theirs in LAYERS.items() for kind in ('weight', 'bias')}
    stn.load_state_dict(state)
    images = tensors['images'].clone().requires_grad_()
    out = stn(images)
    assert_close(out, tensors['out'], rtol=1e-4, atol=1e-5)
    out.backward(tensors['grad_out'])
    assert_close(images.grad, tensors['grad_images'], rtol=1e-3, atol=1e-4)


def psr_model(size, n_classes, numbers):
    "PSR filled by rule"
    resizer = NeuralResizer('images', down='none', in_size=size, up_size=size, size=size)
    plain = fer_model('vgg16_bn', resizer, n_classes, head='linear')
    plain.mean.zero_()
    plain.std.fill_(1)
    model = PSR(plain, n_classes, EDSR(bilinear=False))

    def name(own):
        for mine, theirs in LAYERS.items():
            own = own.replace(f'stn.{mine}.', f'stn.{theirs}.')
        if own.startswith('stems.'):
            _, branch, rest = own.split('.', 2)
            return f'psr.stem{branch}.{rest}'
        return f'psr.{own}'

    by_rule = numbers['weights_by_rule']
    gain = numbers['conv_gain']
    fill(model.trunk, name, None, gain)
    fill(model.head, lambda own: f'psr.head.{own}', None, gain)
    names = {name(own) for own in model.trunk.state_dict() if 'num_batches' not in own}
    assert names <= set(by_rule)
    with torch.no_grad():
        model.trunk.stn.localise[9].weight *= .03
        model.trunk.stn.localise[9].bias.copy_(torch.tensor([1.05, .08, .03, -.06, .95, -.04]))
        model.trunk.sr.tail[1].weight *= .5
        for block in model.trunk.sr.body[:-1]:
            block.body[2].weight *= .1
    return model.eval()


@pytest.mark.parametrize('name, size, n_classes', [('psr_net', 64, 8), ('psr_net_100', 100, 7)])
def test_psr_network(reference, name, size, n_classes):
    "Straightened, halved and doubled images, each branch's answer, the loss and its gradients"
    tensors, numbers = reference(name)
    images = tensors['images']
    model = psr_model(size, n_classes, numbers)
    half, doubled, straight = model.trunk.images(images)
    assert_close(straight, tensors['transformed'], rtol=1e-4, atol=1e-4)
    assert_close(half, tensors['low'], rtol=1e-4, atol=1e-4)
    assert_close(doubled, tensors['super_resolved'], rtol=1e-4, atol=1e-3)
    branches = model.branches(images)
    assert_close(branches, tensors['branch_logits'], rtol=1e-3, atol=1e-3)
    assert_close(model(images).exp(), tensors['probabilities'], rtol=1e-3, atol=1e-4)
    exact = model.double()  # single precision decides some ReLUs and maxima otherwise
    loss = BranchLoss(SoftVoteCE())(exact.branches(images.double()), tensors['votes'].double())
    assert loss.item() == pytest.approx(tensors['loss'].item(), rel=1e-5)
    loss.backward()
    gradients = {'fc2_bias': model.head.fc2,
                 'stem2_conv0_bias': model.trunk.stems[2][0],
                 'sr_tail_bias': model.trunk.sr.tail[1],
                 'stn_last_bias': model.trunk.stn.localise[9]}
    for gradient, layer in gradients.items():
        expected = tensors[f'grad_{gradient}'].double()
        largest = expected.abs().max().item()
        assert_close(layer.bias.grad, expected, rtol=2e-3, atol=2e-2*largest)


def test_patterns(reference):
    """Our ring of neighbours, and scikit-image's circle

    The circle only in the four directions where nothing is interpolated.
    """
    tensors, _ = reference('lbp')
    grey = tensors['grey'][:, None].float()
    codes = local_binary_patterns(grey)[:, 0]
    assert torch.equal(codes, tensors['square_ring'].long())
    circle = tensors['circle_skimage'].long()
    inner = (slice(None), slice(1, -1), slice(1, -1))
    for ours, theirs in {1: 2, 3: 0, 5: 6, 7: 4}.items():  # up, right, down, left
        assert torch.equal((codes >> ours & 1)[inner], (circle >> theirs & 1)[inner])
