"The methods of Table 4 against values of the code that their authors released (RAN, SCN, PSR) and of scikit-image's patterns."
import json
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

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
    "Fill a module's tensors; `names`: own name -> canonical name; compares with the sums that the reference tells"
    for own, tensor in module.state_dict().items():
        if own.endswith('num_batches_tracked'):
            continue
        name = names(own)
        tensor.copy_(filled(name, tuple(tensor.shape), gain))
        if by_rule:
            assert tensor.sum().item() == pytest.approx(by_rule[name]['sum'], rel=1e-4, abs=1e-2), name


def resnet(size, n_classes):
    resizer = NeuralResizer('images', down='none', in_size=size, up_size=size, size=size)
    model = fer_model('resnet18', resizer, n_classes, head='linear')
    model.mean.zero_()  # the reference has no normalisation
    model.std.fill_(1)
    return model


@pytest.mark.parametrize('views', [6, 8])
def test_ran_head(reference, views):
    "The aggregation, the margin loss and all their gradients"
    t, numbers = reference(f'ran_head_{views}views')
    for softmax, mu_name in ((False, 'mu'), (True, 'mu_softmax')):
        head = RegionAttention(512, 8, softmax)
        for layer in ('w0', 'w1', 'fc'):
            getattr(head, layer).weight.data = t[f'{layer}_weight'].reshape(getattr(head, layer).weight.shape)
            getattr(head, layer).bias.data = t[f'{layer}_bias'].reshape(-1)
        features = t['features'].clone().requires_grad_()
        mu = head.attend(features)
        torch.testing.assert_close(mu, t[mu_name], **EXACT)
    pooled = head.pool(features, mu)
    torch.testing.assert_close(pooled, t['P'], **EXACT)
    logits = head(pooled)
    torch.testing.assert_close(logits, t['logits'], **EXACT)
    rank = rank_biased_loss(mu, numbers['margin'])
    torch.testing.assert_close(rank, t['rb'].squeeze(), **EXACT)
    loss = F.cross_entropy(logits, t['labels']) + rank
    torch.testing.assert_close(loss, t['loss'].squeeze(), **EXACT)
    loss.backward()
    torch.testing.assert_close(features.grad, t['grad_features'], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(head.w0.weight.grad, t['grad_w0_weight'], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.w1.weight.grad, t['grad_w1_weight'], rtol=1e-4, atol=1e-6)


def ran_name(own):
    part, _, rest = own.partition('.')
    return f'ran.{rest}' if part == 'head' else f'ran.{own}'


def test_ran_network(reference):
    "Views through one ResNet-18, then the head: in evaluation, and in training with statistics for each view"
    t, numbers = reference('ran_net')
    model = RAN(resnet(64, 8), 8, softmax=True)
    fill(model.trunk, lambda own: f'ran.trunk.{own}', numbers['weights_by_rule'])
    fill(model.head, lambda own: f'ran.{own}', numbers['weights_by_rule'])
    views = t['views']
    with torch.no_grad():
        features = model.trunk.eval()(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        torch.testing.assert_close(features, t['eval_features'], rtol=1e-4, atol=1e-4)
        sigmoid = torch.sigmoid(model.head.w0(features)).squeeze(-1)  # before the soft-max
        torch.testing.assert_close(sigmoid, t['eval_mu'], rtol=1e-4, atol=1e-5)
        mu = model.head.attend(features)
        torch.testing.assert_close(model.head(model.head.pool(features, mu)), t['eval_logits'], rtol=1e-4, atol=1e-4)
    model.trunk.train()
    features = torch.stack([model.trunk(view) for view in views.unbind(1)], 1)
    torch.testing.assert_close(features, t['train_features'], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.trunk.bn1.running_mean, t['after_bn1_running_mean'], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.trunk.bn1.running_var, t['after_bn1_running_var'], rtol=1e-4, atol=1e-5)


def test_ran_boxes(reference):
    "The eight views of the released code, as whole pixels, for each size"
    _, numbers = reference('ran_views')
    for size, expected in numbers['sizes'].items():
        pixels = [[int(edge*int(size) + 1e-9) for edge in box] for box in VIEWS['code8']]
        assert pixels[:len(expected['boxes_left_top_right_bottom'])] == expected['boxes_left_top_right_bottom']


def test_views_are_crops():
    "A box on whole pixels, at its own size, is the crop itself"
    x = torch.rand(2, 3, 48, 48)
    views = crop_views(x, torch.tensor([[.25, 0, 1, .75]]))
    crop = F.interpolate(x[:, :, :36, 12:], (48, 48), mode='bilinear', align_corners=False)
    torch.testing.assert_close(views[:, 0, :, 2:-2, 2:-2], crop[:, :, 2:-2, 2:-2], rtol=1e-4, atol=1e-5)


SCN_CASES = ['b12_k7_none', 'b21_k8', 'b64_k7', 'b64_k8_d2_big', 'b64_k8_flat', 'b64_k8_wide', 'b90_k8']


@pytest.mark.parametrize('case', SCN_CASES)
def test_scn_step(reference, case):
    "Weighting, rank regularisation, its gradient, and relabelling of one batch"
    tensors, numbers = reference('scn_step')
    t = {k.partition('.')[2]: v for k, v in tensors.items() if k.startswith(f'{case}.')}
    n = numbers[case]
    alpha_logit = t['alpha_logit'].reshape(-1).clone().requires_grad_()
    raw = t['raw_logits'].clone().requires_grad_()
    alpha = torch.sigmoid(alpha_logit)
    weighted = alpha[:, None]*raw
    torch.testing.assert_close(weighted, t['weighted_logits'], **EXACT)
    certain = certain_images(alpha, n['beta'])
    assert int(certain.sum()) == n['high']
    rank = rank_regularisation(alpha, n['beta'], n['margin_1'])
    assert rank.item() == pytest.approx(n['rr'], rel=1e-5, abs=1e-6)
    loss = F.cross_entropy(weighted, t['labels']) + rank
    assert loss.item() == pytest.approx(n['loss'], rel=1e-5)
    loss.backward()
    torch.testing.assert_close(alpha_logit.grad, t['grad_alpha_logit'].reshape(-1), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(raw.grad, t['grad_raw_logits'], rtol=1e-4, atol=1e-7)
    after = relabelled(weighted, t['labels'], n['margin_2'])
    assert torch.equal(after, t['labels_after']) and int((after != t['labels']).sum()) == n['relabelled']


def test_scn_sequence(reference):
    "Twelve batches one after the other: the stored labels after each of them"
    t, numbers = reference('scn_sequence')
    labels = t['labels_first'].clone()
    place = 0
    for step, expected in zip(numbers['steps'], t['labels_after_each_step']):
        left = numbers['images'] - step['batch']*numbers['batch']
        n = min(numbers['batch'], left)
        where, logits = t['order'][place:place + n], t['logits'][place:place + n]
        place += n
        if step['epoch'] >= numbers['relabel_from_epoch']:
            labels[where] = relabelled(logits, labels[where], numbers['margin_2'])
        assert torch.equal(labels, expected), step


def test_scn_network(reference):
    t, numbers = reference('scn_net')
    model = SCN(resnet(64, 7), 7).eval()
    fill(model.trunk, lambda own: f'scn.trunk.{own}', numbers['weights_by_rule'])
    fill(model.head, lambda own: f'scn.{own}', numbers['weights_by_rule'])
    seen = []
    model.observe.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        logits = model(t['images'])
    torch.testing.assert_close(seen[0], t['eval_alpha'].reshape(-1), **EXACT)
    torch.testing.assert_close(logits, t['eval_logits'], rtol=1e-4, atol=1e-4)


def test_edsr(reference):
    t, numbers = reference('psr_edsr_x2')
    net = EDSR(bilinear=False)
    fill(net, lambda own: f'edsr.{own}', None, numbers['conv_gain'])
    for block in net.body[:-1]:
        block.body[2].weight.data *= .1
    with torch.no_grad():
        torch.testing.assert_close(net(t['images']), t['out'], rtol=1e-4, atol=1e-4)


LAYERS = {'localise.0': 'localization.0', 'localise.3': 'localization.3', 'localise.7': 'fc_loc.0', 'localise.9': 'fc_loc.2'}


def test_psr_stn(reference):
    "PSR's spatial transformer is the one of the resizer"
    t, numbers = reference('psr_stn')
    stn = STN(numbers['img_size'])
    state = {f'{own}.{kind}': t[f'weights.{theirs}.{kind}'] for own, theirs in LAYERS.items() for kind in ('weight', 'bias')}
    stn.load_state_dict(state)
    images = t['images'].clone().requires_grad_()
    out = stn(images)
    torch.testing.assert_close(out, t['out'], rtol=1e-4, atol=1e-5)
    out.backward(t['grad_out'])
    torch.testing.assert_close(images.grad, t['grad_images'], rtol=1e-3, atol=1e-4)


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
    assert {name(k) for k in model.trunk.state_dict() if 'num_batches' not in k} <= set(by_rule)
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
    t, numbers = reference(name)
    model = psr_model(size, n_classes, numbers)
    half, doubled, straight = model.trunk.images(t['images'])
    torch.testing.assert_close(straight, t['transformed'], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(half, t['low'], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(doubled, t['super_resolved'], rtol=1e-4, atol=1e-3)
    branches = model.branches(t['images'])
    torch.testing.assert_close(branches, t['branch_logits'], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model(t['images']).exp(), t['probabilities'], rtol=1e-3, atol=1e-4)
    exact = model.double()  # single precision decides some ReLUs and maxima otherwise
    loss = BranchLoss(SoftVoteCE())(exact.branches(t['images'].double()), t['votes'].double())
    assert loss.item() == pytest.approx(t['loss'].item(), rel=1e-5)
    loss.backward()
    gradients = {'fc2_bias': model.head.fc2, 'stem2_conv0_bias': model.trunk.stems[2][0],
                 'sr_tail_bias': model.trunk.sr.tail[1], 'stn_last_bias': model.trunk.stn.localise[9]}
    for name, layer in gradients.items():
        expected = t[f'grad_{name}'].double()
        torch.testing.assert_close(layer.bias.grad, expected, rtol=2e-3, atol=2e-2*expected.abs().max().item())


def test_patterns(reference):
    "Our ring of neighbours, and scikit-image's circle in the four directions where nothing is interpolated"
    t, _ = reference('lbp')
    grey = t['grey'][:, None].float()
    codes = local_binary_patterns(grey)[:, 0]
    assert torch.equal(codes, t['square_ring'].long())
    inner = (slice(None), slice(1, -1), slice(1, -1))
    for ours, theirs in {1: 2, 3: 0, 5: 6, 7: 4}.items():  # up, right, down, left
        assert torch.equal((codes >> ours & 1)[inner], (t['circle_skimage'].long() >> theirs & 1)[inner])
