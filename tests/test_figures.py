"Figures against references: scipy, analytic losses, waves; names that would be code stop none."
import math

import numpy as np
import pytest
import torch
from nbdev.config import get_config
from scipy.spatial.distance import jensenshannon

from fer_nr.ablation import records
from fer_nr.data import FaceSet, synthetic, vote_entropy
from fer_nr.evaluation import calibration
from fer_nr.figures import (ORDERS, Picture, disagreement, faces_figure, find_faces, four_losses,
                            loss_figure, loss_lines, minimiser, resizer_figure, resizing_figure,
                            resizing_views, ring_power, spectrum)
from fer_nr.loss import label_prior
from fer_nr.resizer import NeuralResizer
from fer_nr.run_figures import (answers, confusion_figure, differing,
                                differing_figure, pair_figure, recall_figure, reliability_figure,
                                run_names, runs_table)
from fer_nr.text import figure_text, html_text, one_line

# names that are mathematics, a tag, a control sequence, no text at all
EVIL = [r'$\frac{$', '$a$', r'\$', '<b>&"', '\x1b[31mred', 'a\nb', 'x' * 500, '\udcff', '']


def png(picture):
    "The bytes of a figure: this draws all of its text"
    return picture._repr_png_()


@pytest.fixture(scope='module')
def faces():
    return synthetic(n=300)


@pytest.fixture(scope='module')
def published():
    found = records(get_config().config_path/'results')
    return [record for record in found if record['data']['name'] == 'ferplus']


# Names

@pytest.mark.parametrize('name', EVIL)
def test_evil_names(name):
    line = one_line(name)
    assert line.isprintable() and len(one_line(name, 300)) <= 300
    assert not set('<>"\'') & set(html_text(name))
    picture = Picture()
    text = picture.text(0, 0, figure_text(name))
    assert png(picture)
    assert text._preprocess_math(figure_text(name)) == (one_line(name, 120), False)


def test_classes_with_any_name(faces, published):
    "Class and file names come from folders: none stops a figure"
    vocab = tuple(EVIL[:8])
    names = [f'{name}.png' for name in vocab]
    some = FaceSet(faces.test.images[:8], torch.arange(8), faces.test.votes[:8], names, vocab)
    assert png(faces_figure(some))
    assert png(loss_figure(label_prior(faces.train), vocab, vocab[0]))
    first, second = renamed(published[0], vocab), renamed(published[1], vocab)
    assert png(recall_figure([first, second]))
    assert png(confusion_figure([first]))
    assert png(differing_figure(first, second))


def renamed(record, vocab):
    "A record whose classes are called differently"
    metrics = record['metrics']['test']
    recall = dict(zip(vocab, metrics['recall'].values()))
    test = metrics | dict(vocab=list(vocab), recall=recall)
    data = record['data'] | dict(vocab=list(vocab))
    return record | dict(id=record['id'] + vocab[0], data=data, metrics=dict(test=test))


# Faces

def test_disagreement_is_scipys(faces):
    logits = torch.randn(len(faces.test), 8)
    votes, probs = faces.test.vote_dist(), logits.double().softmax(1)
    js = [jensenshannon(*pair, base=2)**2 for pair in zip(probs, votes)]
    assert np.allclose(disagreement(faces.test, logits), js, atol=1e-6)
    mean = calibration(logits, faces.test.labels, faces.test.votes)['vote_js']
    assert disagreement(faces.test, logits).mean() * math.log(2) == pytest.approx(mean, abs=1e-5)
    assert disagreement(faces.test, votes.log()).abs().max() < 1e-6
    certain = 1e3 * (votes[:1] == 0)  # of classes that nobody chose
    assert disagreement(faces.test[:1], certain)[0] == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match='a row for each face'):
        disagreement(faces.test, logits[:3])


def test_find_faces(faces):
    where = find_faces(faces.train, 'surprise', 'votes disagree')
    assert len(where) == faces.train.counts()[2]
    assert (vote_entropy(faces.train.votes)[where].diff() <= 0).all()
    assert find_faces(faces.train, name=faces.train.names[7].upper()).tolist() == [7]
    logits = torch.randn(len(faces.test), 8)
    most = disagreement(faces.test, logits).argmax()
    assert find_faces(faces.test, order=ORDERS[3], logits=logits)[0] == most
    with pytest.raises(ValueError, match='needs the logits of a model'):
        find_faces(faces.test, order=ORDERS[3])
    with pytest.raises(ValueError, match="class 'joy' is unknown: expected one of neutral"):
        find_faces(faces.test, 'joy')
    with pytest.raises(ValueError, match="order 'odd'"):
        find_faces(faces.test, order='odd')


def test_pages(faces):
    "A page builds its own faces only; nothing found is an empty page"
    where = torch.arange(25)
    assert len(faces_figure(faces.test, where, page=2).axes[0].images) == 5
    assert len(faces_figure(faces.train).axes[0].images) == 20
    assert png(faces_figure(faces.test, torch.arange(0)))
    with pytest.raises(ValueError, match='page 9: expected 1 to 2'):
        faces_figure(faces.test, where, page=9)


def test_wrong_answers_are_red(faces):
    right = 9. * torch.nn.functional.one_hot(faces.test.labels, 8)
    right[0] = right[0].roll(1)
    texts = faces_figure(faces.test, torch.arange(4), logits=right).axes[0].texts
    titles = [text for text in texts if text.get_fontsize() == 6]
    assert [text.get_color() for text in titles] == ['C3', 'k', 'k', 'k']


# Resizers

def test_spectrum_of_a_wave():
    "10 cycles have their power at 10; twice the amplitude is 6 dB; noise is flat"
    wave = torch.cos(2 * math.pi * 10 * torch.arange(96) / 96).expand(1, 96, 96)
    assert spectrum(wave).argmax() == 10
    assert (spectrum(2 * wave) - spectrum(wave))[10] == pytest.approx(20 * math.log10(2))
    assert np.allclose(spectrum(wave.mT), spectrum(wave))
    noise = ring_power(torch.randn(100, 1, 64, 64, generator=torch.Generator().manual_seed(0)))[3:]
    assert noise.shape == (29,) and noise.std() / noise.mean() < .1


def test_resizing_views(faces):
    x = faces.test.images[:1] / 255
    bilinear = NeuralResizer('bilinear', down='none', up_size=112, size=112)
    views = resizing_views(x, bilinear, res=24)
    assert [tuple(view.shape[-2:]) for view in views.values()] == [(24, 24), *[(112, 112)] * 3]
    assert torch.allclose(views['resizer, 112 px'].mean(1), views['bilinear'].mean(1), atol=1e-6)


@pytest.mark.parametrize('stretch', [False, True])
def test_resizing_figure(faces, stretch):
    resizer = NeuralResizer('sr', down='ltr', up_size=96, size=48)
    assert png(resizing_figure(faces.test.images[:1] / 255, resizer, 24, stretch))


def test_resizer_figure(faces):
    "A bilinear resizer does not differ from bilinear interpolation; its mode stays as it was"
    resizer = NeuralResizer('bilinear', down='none', up_size=64, size=64).train()
    picture = resizer_figure(faces.test.images[:2] / 255, resizer)
    assert [axes.texts[0].get_text() for axes in picture.axes[2::3]] == ['white: 0.00'] * 2
    assert resizer.training


# Losses

def test_cross_entropy_by_hand():
    confidence = torch.linspace(.01, .99, 99, dtype=torch.float64)
    losses = four_losses(torch.eye(8))
    value, slope = loss_lines(losses['cross-entropy'], 2, 8, confidence)
    assert torch.allclose(value, -confidence.log()) and torch.allclose(slope, confidence - 1)


def test_minimiser(faces):
    "Proper losses are least at their target; F-PDLS is not proper"
    losses, label = four_losses(label_prior(faces.train)), torch.tensor([2])
    for name in ('smoothing', 'PDLS'):
        target = losses[name].target_dist(label, 8)[0].double()
        assert torch.allclose(minimiser(losses[name], 2, 8), target, atol=1e-4)
    assert minimiser(losses['F-PDLS'], 2, 8)[2] < losses['F-PDLS'].target_dist(label, 8)[0, 2]


def test_loss_figure_refuses(faces):
    prior = label_prior(faces.train)
    with pytest.raises(ValueError, match="class 'joy' is unknown: expected one of neutral"):
        loss_figure(prior, faces.vocab, 'joy')
    with pytest.raises(ValueError, match='alpha is 1.2'):
        loss_figure(prior, faces.vocab, 'fear', alpha=1.2)


# Runs

def test_runs_table(published):
    assert runs_table(published).top1.is_monotonic_decreasing
    assert runs_table(published, 'ece', ascending=True).ece.is_monotonic_increasing
    assert len(runs_table([])) == 0
    with pytest.raises(ValueError, match="no column 'f1'"):
        runs_table(published, 'f1')


def test_run_names(published):
    assert run_names([]) == []
    assert run_names(published[:1]) == [published[0]['id']]
    names = run_names(published)
    assert len(set(names)) == len(published)


def test_confusion(published):
    counts = np.array(published[0]['metrics']['test']['confusion'])
    shown = [int(text.get_text()) for text in confusion_figure(published[:1]).axes[0].texts]
    assert sum(shown) == counts.sum()
    with pytest.raises(ValueError, match='3 runs: expected one or two'):
        confusion_figure(published[:1] * 3)
    with pytest.raises(ValueError, match="was not evaluated on 'train'"):
        confusion_figure(published[:1], 'train')


def test_reliability(published):
    record = published[0]
    labels, predictions = answers(record)
    logits = 5 * np.eye(8)[predictions]
    drawn = reliability_figure([record], {record['id']: dict(test=logits)}).axes[0]
    assert f'n={len(labels)}' in drawn.get_title()
    assert 'no diagram' in reliability_figure([record], {}).axes[0].texts[0].get_text()
    with pytest.raises(ValueError, match='expected one to three'):
        reliability_figure([], {})


def test_pairs(published):
    a, b = published[:2]
    labels, first = answers(a)
    second = answers(b)[1]
    table = differing(a, b)
    assert table.row.tolist() == np.flatnonzero(first != second).tolist()
    assert (table.right == 'first').sum() == ((first == labels) & (second != labels)).sum()
    assert (table.right == 'second').sum() == ((second == labels) & (first != labels)).sum()
    assert png(pair_figure(a, b))
    assert 'not at hand' in differing_figure(a, b).texts[0].get_text()
    shorter = b | dict(labels=b['labels'] | dict(test=b['labels']['test'][1:]),
                       predictions=b['predictions'] | dict(test=b['predictions']['test'][1:]))
    with pytest.raises(ValueError, match='a paired test needs the same ones'):
        differing(a, shorter)
