"""Pictures of faces, resizers and losses: each is a function that takes tensors and gives a figure

A figure is a `Picture`: pyplot does not know it, so that several threads may draw at once.
Names that come from folders, files and users pass `figure_text`.
"""
import io
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from .data import vote_entropy
from .evaluation import js_divergence
from .loss import FPDLS, PDLS, CrossEntropy, UniformSmoothing, minimiser
from .registry import unknown
from .resizer import resized, resizer_figure
from .text import figure_text

__all__ = ['Picture', 'new_picture', 'legend_below', 'ORDERS', 'disagreement', 'find_faces',
           'faces_figure', 'ring_power', 'spectrum', 'resizing_views', 'resizing_figure',
           'resizer_figure', 'minimiser', 'loss_lines', 'four_losses', 'loss_figure']


class Picture(Figure):
    "A matplotlib figure that shows itself in a notebook without pyplot"

    def _repr_png_(self):
        file = io.BytesIO()
        self.savefig(file, format='png', bbox_inches='tight')
        return file.getvalue()


def new_picture(
    width: float,  # inches
    height: float,  # inches
    rows: int = 1,
    columns: int = 1,
):  # a `Picture`, and its axes (rows, columns)
    "An empty figure whose parts do not overlap"
    picture = Picture(figsize=(width, height), layout='constrained')
    return picture, picture.subplots(rows, columns, squeeze=False)


def legend_below(picture: Picture, axes, names: int):
    "The legend of `axes` under the whole figure: up to three names side by side, more in a column"
    handles, labels = axes.get_legend_handles_labels()
    columns = names if 1 <= names <= 3 else 1
    picture.legend(handles, labels, loc='outside lower center', fontsize=7, ncols=columns)


def colour_picture(image: torch.Tensor) -> np.ndarray:
    "An image (1 or 3, H, W) as `imshow` wants it: (H, W, 3)"
    return image.permute(1, 2, 0).expand(-1, -1, 3).numpy()


# Which faces to look at?

def disagreement(
    faces,  # a `FaceSet` of N faces, K classes
    logits,  # (N, K) of a model
) -> torch.Tensor:  # float32 (N,), bits, in [0, 1]
    "Jensen-Shannon divergence (Lin 1991) between each face's votes and a model's probabilities"
    votes = faces.vote_dist().double().numpy()
    probs = torch.as_tensor(logits).double().softmax(1).numpy()
    if votes.shape != probs.shape:
        raise ValueError(f'disagreement: logits are {probs.shape}: '
                         f'expected {votes.shape}, a row for each face')
    return torch.from_numpy(js_divergence(votes, probs) / math.log(2)).float()


ORDERS = ('as stored', 'votes agree', 'votes disagree', 'model disagrees with votes')


def find_faces(
    faces,  # a `FaceSet`
    emotion: str = '',  # only faces with this label; '': all
    order: str = 'as stored',  # one of `ORDERS`
    name: str = '',  # only faces whose name contains this, in any case
    logits=None,  # (N, K) of a model, for its disagreement
) -> torch.Tensor:  # int64 (M,), positions in `faces`
    "Faces to look at, the most interesting first; raises `ValueError` for an unknown name"
    if emotion and emotion not in faces.vocab:
        raise ValueError(unknown('class', emotion, faces.vocab))
    if order not in ORDERS:
        raise ValueError(unknown('order', order, ORDERS))
    by_model = order == 'model disagrees with votes'
    if by_model and logits is None:
        raise ValueError(f'order {order!r} needs the logits of a model: choose one')
    where = torch.arange(len(faces))
    if emotion:
        where = where[faces.labels == list(faces.vocab).index(emotion)]
    if name:
        found = [i for i in where.tolist() if name.lower() in str(faces.names[i]).lower()]
        where = torch.tensor(found, dtype=torch.int64)
    if order == 'as stored':
        return where
    key = disagreement(faces, logits) if by_model else vote_entropy(faces.vote_dist())
    return where[key[where].argsort(descending=order != 'votes agree', stable=True)]


FACES_A_ROW = 4
CELL_WIDTH, CELL_HEIGHT = 2.18, 1.25  # of a face of side 1 with its bars


def draw_bars(axes, dists, height: float, color: str):
    "Bars of distributions (n, K) beside the faces of a page, all in one call"
    dists = np.asarray(dists)
    n_classes = dists.shape[1]
    face, k = np.indices(dists.shape).reshape(2, -1)
    left = face % FACES_A_ROW * CELL_WIDTH + 1.6
    y = face // FACES_A_ROW * CELL_HEIGHT + (k + .5) / n_classes
    axes.barh(y, .52 * dists.ravel(), height / n_classes, left=left, color=color)


def draw_face(axes, image, vocab, title: str, color: str, x: float, y: float):
    "A face of side 1 at (x, y), a line of text above it and names for the bars to its right"
    axes.imshow(colour_picture(image), extent=(x, x + 1, y + 1, y))
    axes.text(x, y - .04, figure_text(title, 40), va='bottom', fontsize=6, color=color)
    for k, name in enumerate(vocab):
        middle = y + (k + .5) / len(vocab)
        axes.text(x + 1.57, middle, figure_text(name, 14), ha='right', va='center', fontsize=5)


def page_slice(
    n: int,  # things in all
    page: int,  # from 1
    per_page: int,
) -> slice:
    "Which of `n` things stand on a page; raises `ValueError` for a page that does not exist"
    pages = max(1, math.ceil(n / per_page))
    if not 1 <= page <= pages:
        raise ValueError(f'page {page}: expected 1 to {pages}')
    return slice((page - 1) * per_page, page * per_page)


def faces_figure(
    faces,  # a `FaceSet`
    where=None,  # (M,) positions, as from `find_faces`; None: all
    page: int = 1,  # which page of them, from 1
    per_page: int = 20,  # faces on a page
    logits=None,  # (N, K) of a model, for its probabilities; what it gets wrong has a red title
    notes=None,  # (M,) texts that stand in the titles instead of the labels
) -> Picture:
    """A page of faces with their votes (grey) and a model's probabilities (blue)

    Raises `ValueError` for a page that does not exist.
    """
    where = torch.arange(len(faces)) if where is None else torch.as_tensor(where)
    here = page_slice(len(where), page, per_page)
    shown = faces[where[here]]
    labels = shown.labels.tolist()
    notes = notes[here] if notes else [faces.vocab[label] for label in labels]
    probs = None if logits is None else torch.as_tensor(logits)[where[here]].softmax(1)
    answers = labels if probs is None else probs.argmax(1).tolist()
    rows = max(1, math.ceil(len(shown) / FACES_A_ROW))
    height = .25 + 1.01 * rows
    picture = Picture(figsize=(7, height))
    axes = picture.add_axes((0, 0, 1, 1 - .25 / height))  # one for all faces: axes take time
    for i, (image, name, note) in enumerate(zip(shown.images, shown.names, notes)):
        row, column = divmod(i, FACES_A_ROW)
        title = f'{Path(str(name)).stem[-16:]}  {note}'
        color = 'k' if answers[i] == labels[i] else 'C3'
        draw_face(axes, image, faces.vocab, title, color, column * CELL_WIDTH, row * CELL_HEIGHT)
    draw_bars(axes, shown.vote_dist(), .8, '.72')
    if probs is not None:
        draw_bars(axes, probs, .35, 'C0')
    axes.set(xlim=(-.02, 8.7), ylim=(rows * CELL_HEIGHT - .2, -.22))
    axes.axis('off')
    pages = max(1, math.ceil(len(where) / per_page))
    count = f'{len(where):,} of {len(faces):,} faces, page {page} of {pages}'
    picture.suptitle(count, fontsize=8, x=.003, ha='left', y=.995, va='top')
    return picture


# What does a resizer do to a face?

def ring_power(
    images: torch.Tensor,  # (..., S, S) floats
) -> np.ndarray:  # (S/2,) at 0, 1, … cycles per image
    """Power by spatial frequency, averaged over directions and images

    A Hann window hides the picture's edges, which would have power at all frequencies.
    """
    images = torch.as_tensor(images).double().cpu()
    size = images.shape[-1]
    images = (images - images.mean((-2, -1), keepdim=True)).numpy()
    window = np.outer(np.hanning(size), np.hanning(size))
    power = abs(np.fft.fft2(images * window)) ** 2
    power = power.reshape(-1, size * size).mean(0)
    frequency = np.fft.fftfreq(size) * size
    ring = np.hypot(frequency[:, None], frequency[None]).round().astype(int).ravel()
    return (np.bincount(ring, power) / np.bincount(ring))[:size // 2]


def spectrum(
    image: torch.Tensor,  # (C, S, S) floats
) -> np.ndarray:  # (S/2,) dB, at 0, 1, … cycles per image
    "`ring_power` of the grey image, in dB"
    grey = torch.as_tensor(image).double().mean(0)
    return 10 * np.log10(ring_power(grey) + 1e-12)


def resizing_views(
    x: torch.Tensor,  # (1, 1 or 3, H, W) a face in [0, 1]
    resizer: nn.Module,  # as `NeuralResizer`: (B, C, H, W) -> (B, 3, size, size)
    res: int | None = None,  # side of the source in pixels, by averaging `x`; None: as `x` is
) -> dict:  # name -> (1, C, S, S)
    "The source, the resizer's output, and what bilinear and bicubic interpolation make of it"
    if res:
        x = F.interpolate(x, (res, res), mode='area')
    out = resized(resizer, x)
    views = {f'source, {x.shape[-1]} px': x, f'resizer, {out.shape[-1]} px': out}
    for mode in ('bilinear', 'bicubic'):
        views[mode] = F.interpolate(x, out.shape[-2:], mode=mode).clamp(0, 1)
    return views


def full_contrast(x: torch.Tensor) -> torch.Tensor:
    "An image (1, C, H, W) with each channel from its 2nd to its 98th percentile"
    low, high = (x.flatten(2).quantile(q, 2)[..., None, None] for q in (.02, .98))
    return (x - low) / (high - low).clamp(min=1e-6)


def draw_spectra(axes, images: dict, res: int):
    "Spectra of images (1, C, S, S) by name, and the highest frequency that `res` pixels can hold"
    for name, image in images.items():
        axes.plot(spectrum(image[0]), label=name, lw=1)
    limit = res / 2
    side = 'left' if limit < axes.get_xlim()[1] / 2 else 'right'
    axes.axvline(limit, color='k', ls=':', lw=1)
    place = dict(transform=axes.get_xaxis_transform(), va='top', ha=side)
    axes.text(limit, .97, " the source's limit ", fontsize=6, **place)
    axes.set_xlabel('cycles per face', fontsize=7)
    axes.set_ylabel('power, dB', fontsize=7)
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=6)


def resizing_figure(
    x: torch.Tensor,  # (1, 1 or 3, H, W) a face in [0, 1]
    resizer: nn.Module,  # as of `resizing_views`
    res: int | None = None,  # side of the source in pixels; None: as `x` is
    stretch: bool = False,  # show source and output with full contrast, channel by channel
) -> Picture:
    "A resizer beside bilinear and bicubic interpolation: pictures, differences, spectra"
    views = resizing_views(x, resizer, res)
    source, output, *_ = views
    differences = {}
    for mode in ('bilinear', 'bicubic'):
        differences[f'|resizer − {mode}|'] = (views[output] - views[mode]).abs().mean(1)[0].numpy()
    picture = Picture(figsize=(7, 4.1), layout='constrained')
    axes = picture.subplot_mosaic([list(views), ['spectrum', 'spectrum', *differences]])
    for name, image in views.items():
        if stretch and name in (source, output):
            image = full_contrast(image)
        axes[name].imshow(colour_picture(image[0].clamp(0, 1)))
    for name, difference in differences.items():
        axes[name].set_anchor('S')
        shown = axes[name].imshow(difference, cmap='magma', vmin=0)
        below = dict(location='bottom', fraction=.05, pad=.03, panchor=False)
        picture.colorbar(shown, ax=axes[name], **below).ax.tick_params(labelsize=6)
    for name in (*views, *differences):
        axes[name].set_title(name, fontsize=8)
        axes[name].axis('off')
    upscaled = {name: image for name, image in views.items() if name != source}
    draw_spectra(axes['spectrum'], upscaled, views[source].shape[-1])
    return picture


# What does a loss ask for?

def loss_lines(
    loss,  # one of `four_losses`
    k: int,  # the label
    n_classes: int,  # K
    confidence: torch.Tensor,  # (n,) in the label, between 0 and 1; other classes share the rest
) -> tuple:  # loss and its derivative by the label's logit, both (n,)
    "A loss as the confidence in the label grows"
    probs = ((1 - confidence) / (n_classes - 1))[:, None].repeat(1, n_classes)
    probs[:, k] = confidence
    logits = probs.log().requires_grad_()
    losses = loss(logits, torch.full((len(logits),), k))
    slope, = torch.autograd.grad(losses.sum(), logits)
    return losses.detach(), slope[:, k]


def four_losses(
    prior,  # (K, K), as of `label_prior`
    alpha: float = .8,  # share of the label
    gamma: float = 2.,  # focal exponent
) -> dict:  # name -> loss for one face at a time
    "Cross-entropy, uniform smoothing, PDLS and F-PDLS"
    return {'cross-entropy': CrossEntropy(reduction='none'),
            'smoothing': UniformSmoothing(alpha, reduction='none'),
            'PDLS': PDLS(prior, alpha, reduction='none'),
            'F-PDLS': FPDLS(prior, alpha, gamma, reduction='none')}


def loss_figure(
    prior,  # (K, K), as of `label_prior`
    vocab,  # K class names
    emotion: str,  # the label, one of `vocab`
    alpha: float = .8,  # share of the label, in [0, 1]
    gamma: float = 2.,  # focal exponent, >= 0
) -> Picture:
    "F-PDLS beside cross-entropy, uniform smoothing and PDLS, for faces with one label"
    if emotion not in vocab:
        raise ValueError(unknown('class', emotion, vocab))
    k, n_classes = list(vocab).index(emotion), len(vocab)
    label, places = torch.tensor([k]), np.arange(n_classes)
    confidence = torch.linspace(.005, .995, 199, dtype=torch.float64)
    picture, ((value, slope), (target, least)) = new_picture(7, 4.6, rows=2, columns=2)
    styles = [dict(lw=1.2), dict(lw=1.2), dict(lw=1.2, ls='--'), dict(lw=2.2)]
    for i, (name, loss) in enumerate(four_losses(prior, alpha, gamma).items()):
        losses, slopes = loss_lines(loss, k, n_classes, confidence)
        value.plot(confidence, losses, label=name, **styles[i])
        slope.plot(confidence, slopes, **styles[i])
        bars = places + (i - 1.5) * .2
        target.bar(bars, loss.target_dist(label, n_classes)[0].numpy(), .2)
        least.bar(bars, minimiser(loss, k, n_classes).numpy(), .2)
    for axes in (value, slope):
        axes.set_xlabel(f'confidence in the label, {figure_text(emotion)}', fontsize=8)
    names = [figure_text(name, 20) for name in vocab]
    for axes in (target, least):
        axes.set_xticks(places, names, rotation=40, ha='right')
        axes.set_ylim(0, 1)
    titles = {value: 'loss', slope: "derivative by the label's logit",
              target: 'target', least: 'where the loss is least'}
    for axes, title in titles.items():
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
    value.set_ylim(0, 5)
    value.legend(fontsize=7)
    slope.axhline(0, color='k', lw=.5)
    return picture
