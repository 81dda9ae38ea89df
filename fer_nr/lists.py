"""Lists of picture files to `Faces`: what is there, what is carved from train, decoded once.

A split is a table of lists: `files`, `labels`, `names`, and where there are some `boxes`, `votes`.
"""
import hashlib
import json
import os
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .faces import Faces, FaceSet
from .files import decode_once, printable, write_images
from .pictures import can_read, picture
from .registry import unknown

__all__ = ['check_options', 'check_choice', 'take', 'present', 'readable', 'carve',
           'carve_from_train', 'warn_of_blank', 'assemble', 'from_files']

PIECE = 256  # pictures that a process decodes at a time


def check_options(size: int = 48, valid: float = 0, test: float = .1, seed: int = 0,
                  missing: str = 'refuse'):
    "Refuse arguments out of range; raises `ValueError` that names the argument"
    for name, value, least in (('size', size, 1), ('seed', seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f'{name}={value!r}: expected a whole number >= {least}')
    for name, share in dict(valid=valid, test=test).items():
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not number or not 0 <= share < 1:
            raise ValueError(f'{name}={share!r}: expected a share of train, in [0, 1)')
    check_choice('missing', missing, ('refuse', 'skip'))


def check_choice(name: str, value, known: tuple):
    "Refuse a value that is none of the known ones, with the nearest"
    if value not in known:
        raise ValueError(unknown(name, value, known))


def take(split: dict, mask) -> dict:
    "The items of a split's lists where `mask` is true"
    return {key: [item for item, kept in zip(items, mask) if kept] for key, items in split.items()}


def present(split: dict, missing: str) -> dict:
    "The split without files that are not there: counted, or refused by `FileNotFoundError`"
    there = [os.path.exists(file) for file in split['files']]
    gone = [printable(file) for file, found in zip(split['files'], there) if not found]
    if gone and missing == 'refuse':
        raise FileNotFoundError(f'{gone[0]}: not found, but the list names it; '
                                f"missing='skip' goes on without ({len(gone):,} missing)")
    if gone:
        warnings.warn(f'skipped {len(gone):,} of {len(there):,} that are not there, the first: '
                      f'{gone[0]}', stacklevel=3)
    return take(split, there)


def _flags(files):
    "Whether each file is a whole picture, as images of one pixel"
    return np.array([can_read(file) for file in files], np.uint8).reshape(-1, 1, 1, 1)


def readable(name: str, root: Path, splits: dict, missing: str, cache=None) -> dict:
    """The splits without pictures that cannot be read, if `missing` is 'skip': they are counted.

    Each file is tried once; which can be read is kept as a cache. With 'refuse' nothing is tried
    here: the first that cannot be read stops whoever decodes it.
    """
    if missing == 'refuse':
        return splits
    files = [str(file) for lists in splits.values() for file in lists['files']]
    pieces = [(files[i:i+PIECE],) for i in range(0, len(files), PIECE)]

    def write(path):
        return write_images(path, (len(files), 1, 1, 1), _flags, pieces, PIECE, 'readable')

    flags, _ = decode_once(f"{name.split('/')[0]}-readable", root, files, write, cache)
    whole = flags.ravel() > 0
    broken = [printable(files[i]) for i in np.flatnonzero(~whole)]
    if broken:
        warnings.warn(f'skipped {len(broken):,} of {len(files):,} that cannot be read as pictures, '
                      f'the first: {broken[0]}', stacklevel=3)
    kept, start = {}, 0
    for split, lists in splits.items():
        kept[split] = take(lists, whole[start:start + len(lists['files'])])
        start += len(lists['files'])
    return kept


def carve(labels, share: float, seed: int = 0) -> np.ndarray:
    "Mask bool (N,) of a stratified sample: of each class a share, rounded"
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mask[rng.permutation(members)[:round(share * len(members))]] = True
    return mask


def carve_from_train(splits: dict, name: str, share: float, seed: int) -> dict:
    "The splits with a stratified share of train as split `name`, if they have none"
    if name in splits or not share:
        return splits
    mask = carve(splits['train']['labels'], share, seed)
    return splits | {'train': take(splits['train'], ~mask), name: take(splits['train'], mask)}


def warn_of_blank(name: str, n: int, blank: list, names: list):
    "Say how many of `n` pictures have one value in all their pixels: were they read rightly?"
    if blank:
        warnings.warn(f'{name}: {len(blank):,} of {n:,} pictures are blank, all pixels alike; '
                      f'the first: {printable(names[blank[0]])}', stacklevel=3)


def assemble(name: str, images, splits: dict, vocab) -> Faces:
    "`Faces` whose images are stretches of `images` (N, C, H, W), in the order of the splits"
    images = torch.as_tensor(images)
    sets = {}
    start = 0
    for split, lists in splits.items():
        stop = start + len(lists['labels'])
        labels = np.asarray(lists['labels'], np.int64)
        votes = lists.get('votes')
        votes = None if votes is None else np.asarray(votes)
        sets[split] = FaceSet(images[start:stop], labels, votes, lists['names'], vocab)
        start = stop
    return Faces(sets['train'], sets.get('valid'), sets['test'], name)


def _pictures(files, boxes, **how):
    "Decode some files"
    return np.stack([picture(file, box, **how) for file, box in zip(files, boxes)])


def from_files(name: str, root: Path, splits: dict, vocab, cache=None, **how) -> Faces:
    """`Faces` from picture files below `root`; `how`: `size`, `grey`, `exact` of `picture`.

    Each split is one stretch of the cache, never a copy, also when it is larger than memory.
    Raises `ValueError` for a picture that cannot be read, and for an empty train or test.
    """
    splits = {split: splits[split] for split in ('train', 'valid', 'test') if split in splits}
    files = [str(file) for lists in splits.values() for file in lists['files']]
    boxes = [box for lists in splits.values() for box in lists.get('boxes', ())]
    counts = ', '.join(f'{split} {len(lists["files"]):,}' for split, lists in splits.items())
    if not splits['train']['files'] or not splits.get('test', {}).get('files'):
        raise ValueError(f'{printable(root)}: an empty split ({counts}); expected pictures in '
                         'train and in test: more of them, or a larger share for test')
    each_box = boxes or [None] * len(files)
    pieces = [(files[i:i+PIECE], each_box[i:i+PIECE]) for i in range(0, len(files), PIECE)]
    shape = (len(files), 1 if how.get('grey') else 3, how['size'], how['size'])

    def write(path):
        return write_images(path, shape, partial(_pictures, **how), pieces, PIECE, name)

    known = json.dumps([2, how, hashlib.sha256(repr(boxes).encode()).hexdigest()])
    images, facts = decode_once(name.split('/')[0], root, files, write, cache, known)
    warn_of_blank(name, len(files), facts['blank'], files)
    return assemble(name, images, splits, vocab)
