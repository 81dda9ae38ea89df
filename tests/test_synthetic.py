"Synthetic faces: files against the real ones, a writer that is stopped, whole pictures"
import os
import re

import numpy as np
import pandas as pd
import pytest

from fer_nr.synthetic import (ACTION_UNITS, EXPRESSIONS, LAYERS, SPLITS, Canvas, render,
                              sample_faces, write_ferplus)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp('drawn')
    write_ferplus(folder, 400, seed=2)
    return folder


def shape_of(line):
    "The line with all numbers equal: two lines of one format are equal"
    return re.sub(r'\d+', '0', line)


def test_files_are_written_as_the_real_ones(drawn, fer2013):
    for name in ('fer2013new.csv', *(f'{folder}/label.csv' for folder in SPLITS.values())):
        ours, real = ((folder/name).read_bytes().decode() for folder in (drawn, fer2013))
        formats = [{shape_of(line) for line in text.splitlines()} for text in (ours, real)]
        assert formats[0] <= formats[1], name
        assert ours.endswith('\n') and '\r' not in ours, name
    first = []
    for folder in (drawn, fer2013):
        with open(folder/'fer2013.csv', newline='') as file:
            first.append((next(file), shape_of(next(file))))
    assert first[0] == first[1]


def test_rows_names_and_splits(drawn):
    images, votes = pd.read_csv(drawn/'fer2013.csv'), pd.read_csv(drawn/'fer2013new.csv')
    assert len(images) == len(votes) == 400 and (images.Usage == votes.Usage).all()
    assert images.Usage.drop_duplicates().tolist() == list(SPLITS)
    assert images.Usage.value_counts()[list(SPLITS)].tolist() == [320, 40, 40]
    named = votes['Image name'].notna()
    assert votes['Image name'][named].is_unique
    assert (~named).any() and (votes.NF[~named] == 10).all()
    assert (votes.drop(columns=['Usage', 'Image name']).sum(axis=1) == 10).all()
    assert sum(len(list((drawn/folder).glob('*.png'))) for folder in SPLITS.values()) == named.sum()
    train = images.Usage == 'Training'
    copies = images.pixels[train].isin(images.pixels[~train])
    assert copies.sum() == 7*80//100


def test_a_stopped_writer_leaves_no_half_file(tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt
    monkeypatch.setattr(os, 'replace', stop)
    with pytest.raises(KeyboardInterrupt):
        write_ferplus(tmp_path, 40)
    assert not list(tmp_path.rglob('*.csv'))


@pytest.mark.parametrize('size,tolerance', ((24, 12), (48, 4), (192, 0)))
def test_the_same_face_at_any_size(size, tolerance):
    "Only antialiasing differs; differences of 255"
    faces = sample_faces(None, 24, seed=7).assign(noise=0, blur=0)
    ours, large = (render(faces, side).astype(float) for side in (size, 192))
    block = 192//size
    expected = large.reshape(24, size, block, size, block).mean((2, 4))
    assert np.abs(ours-expected).mean() <= tolerance


def test_every_unit_moves_something():
    still = dict(noise=0, hand=0, hat=0, fringe=0, yaw=0, pitch=0)
    relaxed = sample_faces('neutral', seed=4).assign(**dict.fromkeys(ACTION_UNITS, 0.), **still)
    base = render(relaxed).astype(int)
    for unit in ACTION_UNITS:
        assert np.abs(render(relaxed.assign(**{unit: 1.}))-base).max() > 20, unit


def test_extremes_are_drawn():
    faces = sample_faces(list(EXPRESSIONS)*4, seed=1)
    wild = faces.assign(yaw=80, pitch=-60, roll=170, zoom=.3, dx=1.5, dy=-1.5)
    assert render(wild).shape == (32, 48, 48)
    canvas = Canvas(faces.assign(**dict.fromkeys(ACTION_UNITS, 1.2)))
    with np.errstate(divide='raise', invalid='raise', over='raise'):  # in this thread only
        for layer in LAYERS:
            layer(canvas)
    assert np.isfinite(canvas.img).all()
