"""The exported file answers as torch does, for every size, number and resizer."""
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from nbdev.config import get_config

from fer_nr.backbone import fer_model, find_method, load_model, save_weights
from fer_nr.files import save_tensors
from fer_nr.hybrids import EDSR
from fer_nr.onnx_export import OnnxShares, Shares, export_onnx, load_shares, triangle_weights
from fer_nr.registry import parts
from fer_nr.resizer import NeuralResizer

VOCAB = ('calm', 'glad', 'sad')


def shares_of(grey=True, **resizer):
    "A model of one block with a temperature"
    torch.manual_seed(0)
    about = dict(in_size=48, in_chans=1 if grey else 3, up_size=64, size=64) | resizer
    model = fer_model('vit_tiny_patch16_224', NeuralResizer(**about), len(VOCAB), depth=1)
    return Shares(model, VOCAB, temperature=.7, grey=grey)


@pytest.mark.parametrize('size', [48, 47, 49, 20, 96, 333])
def test_resizing_is_torchs(size):
    images = torch.rand(2, 1, size, size//2 + 7, dtype=torch.float64)
    rows = triangle_weights(size, 48).double()
    columns = triangle_weights(size//2 + 7, 48).double()
    expected = F.interpolate(images, (48, 48), mode='bilinear', antialias=True)
    torch.testing.assert_close(rows @ images @ columns.T, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('grey, resizer', [
    (True, dict(up='bilinear', down='none')), (False, dict(up='bilinear', down='none')),
    (True, dict(up='sr', down='bilinear', up_size=96)), (True, dict(up='bicubic', down='none'))])
def test_the_file_answers_as_torch(grey, resizer, tmp_path):
    shares = shares_of(grey, **resizer)
    path = tmp_path/'model.onnx'
    assert export_onnx(shares, path) <= 1e-4
    exported = OnnxShares(path)
    rng = np.random.default_rng(1)
    for batch, height, width in ((1, 48, 48), (7, 31, 90), (2, 300, 300)):
        images = rng.integers(0, 256, (batch, height, width, 3), np.uint8)
        answers = exported.answer(images)
        np.testing.assert_allclose(answers, shares.answer(images), atol=1e-4)
        np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)


def test_what_the_file_says_about_itself(tmp_path):
    path = tmp_path/'model.onnx'
    export_onnx(shares_of(up='bilinear', down='none'), path, 'float16', opset=18)
    model = onnx.load(path)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about['vocab']) == list(VOCAB) and about['kind'] == 'float16'
    assert {entry.version for entry in model.opset_import if entry.domain == ''} == {18}
    shape = model.graph.input[0].type.tensor_type
    assert shape.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in shape.shape.dim] == ['faces', 'height', 'width', 3]


def test_smaller_kinds_are_smaller_and_close(tmp_path):
    shares = shares_of(up='bilinear', down='none')
    differences = {kind: export_onnx(shares, tmp_path/f'{kind}.onnx', kind)
                   for kind in ('float32', 'float16', 'int8')}
    sizes = {kind: (tmp_path/f'{kind}.onnx').stat().st_size for kind in differences}
    assert sizes['int8'] < sizes['float16'] < .6*sizes['float32']
    assert differences['float16'] < 1e-3 and differences['int8'] < .05


def test_the_model_itself_is_left_as_it_was(tmp_path):
    shares = shares_of(up='bilinear', down='none')
    before = {name: tensor.clone() for name, tensor in shares.state_dict().items()}
    fused = [m.fused_attn for m in shares.modules() if hasattr(m, 'fused_attn')]
    export_onnx(shares, tmp_path/'model.onnx', 'int8')
    assert fused == [m.fused_attn for m in shares.modules() if hasattr(m, 'fused_attn')]
    assert all(torch.equal(before[name], tensor) for name, tensor in shares.state_dict().items())


def test_what_is_no_exported_file(tmp_path):
    path = tmp_path/'model.onnx'
    export_onnx(shares_of(up='bilinear', down='none'), path)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(ValueError, match='names no classes'):
        load_shares(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match='not a whole ONNX file'):
        load_shares(path)
    with pytest.raises(FileNotFoundError):
        load_shares(tmp_path/'none.onnx')


def test_an_export_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path/'model.onnx'
    path.write_text('before')
    with pytest.raises(ValueError, match="did you mean 'int8'"):
        export_onnx(shares_of(up='bilinear', down='none'), path, 'int9')
    assert path.read_text() == 'before'
    assert [o.name for o in tmp_path.iterdir()] == ['model.onnx']


METHODS = dict(ran='resnet10t', scn='resnet10t', eac='resnet10t', dan='resnet10t', vtff='resnet10t',
               probe='resnet10t', psr='vgg16_bn', mvt='vit_tiny_patch16_224',
               vit_se='vit_tiny_patch16_224')
ARGS = dict(ran=dict(views='random:2'), vtff=dict(depth=1, lbp_size=24), mvt=dict(depth=1))


def test_every_method_is_exported_here():
    find_method('psr')
    own = {name for name, method in parts('method').items() if method.facts.get('own_head')}
    assert own == METHODS.keys()


@pytest.mark.parametrize('method', METHODS)
def test_models_of_other_methods_answer_as_torch(method, tmp_path):
    "Through the file that a run leaves; what pictures differ in is far more than what runtimes do"
    torch.manual_seed(0)
    resizer = NeuralResizer('bilinear', down='none', in_size=48, in_chans=1, up_size=64, size=64)
    arch = METHODS[method]
    blocks = dict(depth=2) if arch.startswith('vit') else {}
    build = find_method(method).build(**ARGS.get(method, {})).build
    model = build(arch, resizer, len(VOCAB), **blocks).eval()
    with torch.no_grad():
        largest = model(torch.rand(4, 1, 48, 48)).abs().max().item()
    about = dict(vocab=VOCAB, temperature=largest/3)
    save_weights(model, tmp_path/'best.safetensors', about)
    path = tmp_path/'model.onnx'
    assert export_onnx(tmp_path/'best.safetensors', path) <= 1e-4
    shares, exported = load_shares(tmp_path/'best.safetensors'), OnnxShares(path)
    rng = np.random.default_rng(1)
    ours, theirs = [], []
    for batch, height, width in ((1, 48, 48), (5, 31, 90), (2, 300, 200)):
        brightest = rng.integers(20, 256, (batch, 1, 1, 3))
        images = (brightest * rng.random((batch, height, width, 3))).astype(np.uint8)
        ours.append(shares.answer(images))
        theirs.append(exported.answer(images))
    ours, theirs = np.concatenate(ours), np.concatenate(theirs)
    apart = np.abs(ours - theirs).max()
    assert apart <= 1e-4 and np.ptp(ours, axis=0).max() > 100*apart


@pytest.mark.parametrize('channels', [1, 3])
def test_what_a_training_left_says_its_classes_and_colours(channels, tmp_path):
    "A learner's file names them otherwise than the shipped one"
    shares = shares_of(grey=channels == 1, up='bilinear', down='none')
    path = save_weights(shares.model, tmp_path/'best.safetensors',
                        dict(classes=list(VOCAB), images=[channels, 48]))
    found = load_shares(path)
    assert found.vocab == VOCAB and found.grey == (channels == 1)


@pytest.fixture
def finished(tmp_path):
    "A run's folder: a published record, and a model of one block with as many classes"
    record = next((get_config().config_path/'results').glob('ferplus-*.json')).read_text()
    classes = len(json.loads(record)['data']['vocab'])
    resizer = NeuralResizer(in_size=48, in_chans=1, up='bilinear', down='none', up_size=64, size=64)
    model = fer_model('vit_tiny_patch16_224', resizer, classes, depth=1)
    save_weights(model, tmp_path/'best.safetensors')
    (tmp_path/'record.json').write_text(record)
    return tmp_path


def test_a_run_says_its_classes_and_temperature(finished):
    record = json.loads((finished/'record.json').read_text())
    record['metrics']['test_calibrated']['of_votes'] = .5
    (finished/'record.json').write_text(json.dumps(record))
    found = load_shares(finished)
    assert found.vocab == tuple(record['data']['vocab']) and found.temperature == .5
    del record['metrics']['test_calibrated']
    (finished/'record.json').write_text(json.dumps(record))
    assert load_shares(finished).temperature == 1


@pytest.mark.parametrize('change, line', [
    (lambda record: record.clear(), 'record.json is not a record: it lacks id'),
    (lambda record: record.pop('metrics'), 'record.json is not a record: it lacks metrics'),
    (lambda record: record['data'].pop('vocab'), 'expected the vocab'),
    (lambda record: record['metrics']['test_calibrated'].update(of_votes='x'), "of_votes is 'x'")])
def test_a_damaged_record_is_one_line(finished, change, line):
    record = json.loads((finished/'record.json').read_text())
    change(record)
    (finished/'record.json').write_text(json.dumps(record))
    with pytest.raises(ValueError, match=line) as error:
        load_shares(finished)
    assert '\n' not in str(error.value)


def test_a_model_in_memory_is_left_in_training():
    model = shares_of(up='bilinear', down='none').model.train()
    load_shares(model, VOCAB)
    assert model.training and all(part.training for part in model.modules())


def test_psr_is_built_from_its_file_alone(tmp_path):
    "The file of the super-resolution's weights is needed once"
    sr = EDSR(bilinear=False)
    save_tensors(tmp_path/'edsr.safetensors', sr.state_dict())
    resizer = NeuralResizer('bilinear', down='none', up_size=64, size=64)
    method = find_method('psr').build(sr_weights=str(tmp_path/'edsr.safetensors'))
    model = method.build('vgg11_bn', resizer, len(VOCAB)).eval()
    torch.testing.assert_close(model.trunk.sr.state_dict(), sr.state_dict())
    path = save_weights(model, tmp_path/'psr.safetensors')
    (tmp_path/'edsr.safetensors').unlink()
    face = torch.rand(1, 1, 48, 48)
    torch.testing.assert_close(load_model(path)(face), model(face))


SESSION = """
from fer_nr.photographs import FaceDetector
FaceDetector()
"""
QUANTISER = """
import sys
from pathlib import Path
import onnx
from onnx import TensorProto, helper
from fer_nr.onnx_export import quantize
value = helper.make_tensor_value_info('x', TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node('Relu', ['x'], ['y'])], 'toy', [value],
                          [helper.make_tensor_value_info('y', TensorProto.FLOAT, [1])])
source, target = Path(sys.argv[1])/'toy.onnx', Path(sys.argv[1])/'int8.onnx'
onnx.save(helper.make_model(graph), source)
quantize(source, target)
"""


@pytest.mark.parametrize('code', [SESSION, QUANTISER], ids=['session', 'quantiser'])
def test_onnxruntime_leaves_nothing_behind(code, tmp_path):
    "It would write an identifier and statistics to send into the user's cache"
    home, cache, work = (tmp_path/name for name in ('home', 'cache', 'work'))
    for folder in (home, cache, work):
        folder.mkdir()
    env = os.environ | dict(HOME=str(home), XDG_CACHE_HOME=str(cache))
    env.pop('ORT_DISABLE_TELEMETRY', None)
    subprocess.run([sys.executable, '-c', code, work], env=env, check=True)
    assert not [path for folder in (home, cache) for path in folder.rglob('*') if path.is_file()]
