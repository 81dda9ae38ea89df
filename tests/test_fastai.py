"What fastai's users know, with the right value."
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import ProgressCallback
from fastai.interpret import ClassificationInterpretation, Interpretation
from PIL import Image
from sklearn.metrics import confusion_matrix

from fer_nr import loss as losses
from fer_nr.augment import augmentation
from fer_nr.backbone import fer_model
from fer_nr.data import FERPLUS, face_dls, synthetic
from fer_nr.evaluation import predict
from fer_nr.loss import label_prior
from fer_nr.resizer import NeuralResizer
from fer_nr.training import fer_learner, get_recipe, load_learner

matplotlib.use('agg')
LOSSES = dict(ce=losses.CrossEntropy, pdls=losses.PDLS, fpdls=losses.FPDLS,
              compfpdls=losses.CompFPDLS, focal=losses.FocalLoss, smoothing=losses.UniformSmoothing,
              votes=losses.SoftVoteCE, torch=torch.nn.CrossEntropyLoss)


@pytest.fixture(scope='module')
def faces():
    return synthetic(n=200, seed=0)


def learner(faces, loss='ce', augment='none', **kwargs):
    torch.manual_seed(0)
    resizer = NeuralResizer(up='bilinear', down='none', in_chans=1, up_size=32, size=32)
    model = fer_model('vit_tiny_patch16_224', resizer, head='linear', depth=1,
                      augment=augmentation(augment))
    prior = [label_prior(faces.train)] if 'pdls' in loss else []
    target = 'votes' if loss == 'votes' else 'labels'
    dls = face_dls(faces, bs=16, target=target, device='cpu')
    learn = fer_learner(dls, model, LOSSES[loss](*prior), get_recipe('clean', ema=0.), **kwargs)
    learn.create_mbar = False
    learn.remove_cb(ProgressCallback)
    return learn


@pytest.fixture(scope='module')
def learn(faces):
    return learner(faces)


@pytest.fixture
def logits(learn, faces):
    return predict(learn.model, faces.valid)


def titles():
    found = [ax.get_title() for ax in plt.gcf().axes if ax.images]
    plt.close('all')
    return found


def test_predictions_are_probabilities_in_order(learn, faces, logits):
    probabilities, targets, classes = learn.get_preds(with_decoded=True)
    torch.testing.assert_close(probabilities, logits.softmax(1))
    assert torch.equal(targets, faces.valid.labels) and torch.equal(classes, logits.argmax(1))
    loss, top1 = learn.validate()
    assert top1 == pytest.approx((classes == targets).float().mean().item())
    expected = torch.nn.functional.cross_entropy(logits, targets).item()
    assert loss == pytest.approx(expected, rel=1e-5)


def test_predictions_of_the_training_set_are_in_its_order(learn, faces):
    learn.dls.train.epoch = 3
    assert torch.equal(learn.get_preds(ds_idx=0)[1], faces.train.labels)
    assert torch.equal(learn.get_preds(dl=learn.dls.train.new(drop_last=False))[1].sort().values,
                       faces.train.labels.sort().values)


@pytest.mark.parametrize('kind', ['path', 'text', 'PIL', 'array', 'floats', 'tensor', 'colour'])
def test_predict_takes_what_people_have(learn, faces, logits, tmp_path, kind):
    face = faces.valid.images[5, 0].numpy()
    Image.fromarray(face).save(tmp_path/'face.png')
    item = dict(path=tmp_path/'face.png', text=str(tmp_path/'face.png'), PIL=Image.fromarray(face),
                array=face, floats=face/255, tensor=torch.tensor(face)[None],
                colour=np.stack([face]*3, 2))[kind]
    name, number, probabilities = learn.predict(item)
    torch.testing.assert_close(probabilities, logits[5].softmax(0))
    assert number == logits[5].argmax() and name == FERPLUS[number]


def test_files_with_labels(learn, faces, tmp_path):
    "By the folder that each lies in, as fastai's own loaders do it"
    files = []
    for face, label in zip(faces.test.images, faces.test.labels.tolist()):
        files.append(tmp_path/FERPLUS[label]/f'{len(files)}.png')
        files[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(face[0].numpy()).save(files[-1])
    dl = learn.dls.test_dl(iter(files), with_labels=True)
    assert torch.equal(learn.get_preds(dl=dl)[1], faces.test.labels)
    expected = learn.validate(dl=learn.dls.test_dl(faces.test))
    assert list(learn.validate(dl=dl)) == list(expected)
    votes = face_dls(faces, target='votes', device='cpu').test_dl(files, with_labels=True)
    assert torch.equal(votes.one_batch()[1].argmax(1), faces.test.labels)
    with pytest.raises(ValueError, match='does not lie in the folder of a class: expected neutral'):
        learn.dls.test_dl([*files, tmp_path/'0.png'], with_labels=True)


@pytest.mark.parametrize('items', ['face.png', b'face', None, 3])
def test_what_is_no_list_is_refused(learn, items):
    with pytest.raises(ValueError, match='expected a list of files, arrays or pictures'):
        learn.dls.test_dl(items)


def test_predict_refuses_what_it_cannot_scale(learn, tmp_path):
    with pytest.raises(ValueError, match='from 0 to 300, so that it is not known what'):
        learn.predict(np.array([[0., 300.]]))
    with pytest.raises(FileNotFoundError, match='expected a picture'):
        learn.predict(tmp_path/'none.png')


def test_results_are_named(learn, faces):
    learn.show_results(max_n=4, shuffle=False)
    shown = titles()
    logits = predict(learn.model, faces.valid[:4])
    pairs = zip(faces.valid.labels[:4], logits.argmax(1))
    expected = [f'{FERPLUS[label]}\n{FERPLUS[guess]}' for label, guess in pairs]
    assert shown == expected
    learn.dls.valid.show_batch(max_n=4)
    assert titles() == [FERPLUS[label] for label in faces.valid.labels[:4]]
    learn.dls.valid.show_batch(max_n=3, unique=True)  # fastai asks for one face without end
    assert titles() == [FERPLUS[faces.valid.labels[0]]] * 3


def test_augmented_passes(faces):
    learn = learner(faces, augment='modern')
    plain, targets = learn.get_preds()
    torch.manual_seed(0)
    mean, same = learn.tta(n=2, beta=None)[0]
    torch.testing.assert_close(same, plain)
    assert not torch.allclose(mean, plain)
    torch.manual_seed(0)
    torch.testing.assert_close(learn.tta(n=2)[0], torch.lerp(mean, plain, .25))
    assert not learn.model.resizer.augment.training
    with pytest.raises(ValueError, match='the model has no augmentation'):
        learner(faces).tta()


def test_rate_finder(learn):
    weights = {name: value.clone() for name, value in learn.model.state_dict().items()}
    found = learn.lr_find(num_it=12, show_plot=False)
    assert 1e-7 <= found.valley <= 10
    assert all(map(torch.equal, learn.model.state_dict().values(), weights.values()))


@pytest.mark.parametrize('loss', ['fpdls', 'votes'])
def test_interpretation_has_class_names(faces, loss, capsys):
    learn = learner(faces, loss)
    found = ClassificationInterpretation.from_learner(learn)
    logits = predict(learn.model, faces.valid)
    counts = confusion_matrix(faces.valid.labels, logits.argmax(1), labels=range(8))
    assert list(found.vocab) == list(FERPLUS) and (found.confusion_matrix() == counts).all()
    actual, predicted, number = found.most_confused()[0]
    assert counts[FERPLUS.index(actual), FERPLUS.index(predicted)] == number
    found.print_classification_report()
    report = capsys.readouterr().out
    assert all(name in report for name in FERPLUS)
    found.plot_confusion_matrix()
    assert [tick.get_text() for tick in plt.gca().get_xticklabels()] == list(FERPLUS)
    plt.close('all')


@pytest.mark.parametrize('loss', ['ce', 'votes'])
def test_top_losses_are_pictures(faces, loss):
    learn = learner(faces, loss)
    found = Interpretation.from_learner(learn)
    logits = predict(learn.model, faces.valid)
    target = faces.valid.vote_dist() if loss == 'votes' else faces.valid.labels
    each = torch.nn.functional.cross_entropy(logits, target, reduction='none')
    values, places = found.top_losses(3)
    torch.testing.assert_close(values.float(), each.topk(3).values)
    assert torch.equal(places, each.topk(3).indices)
    assert found.top_losses(3, items=True)[2].names == [faces.valid.names[i] for i in places]
    found.plot_top_losses(3)
    first = places[0]
    label, guess = (FERPLUS[i] for i in (faces.valid.labels[first], logits[first].argmax()))
    chance = logits[first].softmax(0).max()
    assert titles()[0] == f'{guess}/{label} / {values[0]:.2f} / {chance:.2f}'


@pytest.mark.parametrize('mix', [MixUp, CutMix])
@pytest.mark.parametrize('loss', LOSSES)
def test_mixing_with_every_loss(faces, loss, mix):
    learn = learner(faces, loss)
    with learn.no_logging():
        learn.fit(1, 1e-4, cbs=mix())
    train_loss, valid_loss, _ = learn.recorder.final_record
    assert 0 < valid_loss < 4 and 0 < train_loss < 4
    assert isinstance(learn.loss_func, LOSSES[loss]) and learn.loss_func.reduction == 'mean'


def test_mixed_precision(faces):
    learn = learner(faces)
    learn.to_bf16()
    assert hasattr(learn, 'bf16') and not hasattr(learn, 'mixed_precision')
    with learn.no_logging():
        learn.fit_recipe(1)
    assert learn.model.head.weight.dtype == torch.float32
    learn.to_fp16()
    assert hasattr(learn, 'mixed_precision') and not hasattr(learn, 'bf16')
    learn.to_fp32()
    assert not hasattr(learn, 'mixed_precision') and not hasattr(learn, 'scaler_state')


def test_one_cycle_and_own_transforms(faces):
    "A user's own batch transform is for training only where it is random"
    from fastai.vision.augment import Brightness
    learn = learner(faces)
    learn.dls.add_tfms([Brightness(max_lighting=.9, p=1., draw=.95)], 'after_batch')
    plain = face_dls(faces, bs=16, device='cpu').train.one_batch()[0]
    bright = learn.dls.train.one_batch()[0]
    torch.testing.assert_close(torch.Tensor(bright), plain.logit(1e-7).add(2.9444).sigmoid(),
                               atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.Tensor(learn.dls.valid.one_batch()[0]),
                               faces.valid.images[:256].float()/255)
    with learn.no_logging():
        learn.fit_one_cycle(1, 1e-3)


def test_export_and_load(learn, faces, logits, tmp_path):
    learn.path = tmp_path
    again = load_learner(learn.export())
    again.remove_cb(ProgressCallback)
    found, _ = again.get_preds(dl=again.dls.test_dl(faces.valid))
    torch.testing.assert_close(found, logits.softmax(1))
    assert list(again.dls.vocab) == list(FERPLUS)
    with pytest.raises(ValueError, match='ends in .safetensors'):
        learn.export('face.pkl')
    with pytest.raises(ValueError, match='a pickle runs code'):
        load_learner(tmp_path/'face.pkl')


def test_a_runs_best_model_is_a_learner(faces, tmp_path):
    learn = learner(faces, path=tmp_path, meta=dict(spec=dict(arch='tiny')))
    learn.fit_recipe(1)
    again = load_learner(tmp_path/'best.safetensors')
    again.remove_cb(ProgressCallback)
    face = faces.test.images[0]
    expected = predict(learn.model, face[None])[0].softmax(0)
    torch.testing.assert_close(again.predict(face)[2], expected)
    assert again.model.meta['spec'] == dict(arch='tiny') and again.model.meta['epoch'] == 1


def test_loaders_of_fastais_own(tmp_path):
    "Ordinary fastai loaders train too; saved after each epoch, for they cannot go on in the middle"
    from fastai.vision.data import ImageDataLoaders
    for name in ('a', 'b'):
        (tmp_path/'faces'/name).mkdir(parents=True)
        for i in range(10):
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path/'faces'/name/f'{i}.png')
    dls = ImageDataLoaders.from_folder(tmp_path/'faces', valid_pct=.5, bs=5, num_workers=0,
                                       device='cpu')
    resizer = NeuralResizer(up='bilinear', down='none', up_size=32, size=32, in_size=32)
    model = fer_model('vit_tiny_patch16_224', resizer, 2, head='linear', depth=1)
    learn = fer_learner(dls, model, torch.nn.CrossEntropyLoss(), path=tmp_path/'run', seconds=0)
    learn.fit_recipe(1)
    assert learn.checkpoint.best['epoch'] == 1 and learn.checkpoint.best_file.exists()


def test_one_validation_face_does_not_make_batches_of_one(faces):
    "Other images come in batches as large as beside many validation faces"
    few = replace(faces, valid=faces.valid[torch.arange(1)])
    sizes = {face_dls(some, bs=8, device='cpu').test_dl(faces.train).bs for some in (faces, few)}
    assert len(sizes) == 1 and min(sizes) > 1
