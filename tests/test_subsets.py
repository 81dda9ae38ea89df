"""Lists of names as people have them, on made-up trees of RAF-DB and AffectNet, and on the real
FERPlus with published records"""
import hashlib
from pathlib import Path

import numpy as np
import papermill as pm
import pytest
from PIL import Image

from fer_nr.datasets import AFFECTNET, RAFDB, affectnet, ferplus, fer2013 as kaggle, rafdb
from fer_nr.evaluation import mcnemar
from fer_nr.results import records
from fer_nr.splits import protocol
from fer_nr.subsets import (compare_on, everything, read_list, read_subsets, right_on, subset_of,
                            subset_table)

ROOT = Path(__file__).parent.parent


def draw(path, number):
    "A small picture of its own"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def raf_tree(root):
    "RAF-DB as published: 14 train and 14 test pictures, each class twice"
    lines = []
    for split in ('train', 'test'):
        for number in range(14):
            name = f'{split}_{number:04d}'
            draw(root/'Image/aligned'/f'{name}_aligned.jpg', number)
            lines.append(f'{name}.jpg {number%7 + 1}')
    (root/'EmoLabel').mkdir()
    (root/'EmoLabel/list_patition_label.txt').write_text('\n'.join(lines))
    return rafdb(root, size=20, valid=0)


def raf_folders(root):
    "RAF-DB as it goes round: class folders 1 to 7"
    for split in ('train', 'test'):
        for number in range(14):
            name = f'{split}_{number:04d}_aligned.jpg'
            draw(root/f'DATASET/{split}/{number%7 + 1}'/name, number)
    return rafdb(root/'DATASET', size=20, valid=0)


@pytest.mark.parametrize('tree', [raf_tree, raf_folders])
def test_raf_lists(tree, tmp_path):
    "Classes count from 0 in the lists, from 1 in the data set; both layouts name the same images"
    faces = tree(tmp_path/'raf')
    lists = tmp_path/'lists'
    lists.mkdir()
    numbers = (3, 8, 11)
    occluded = [f'test_{n:04d}_aligned {n%7} {n%4 + 1}\r' for n in numbers]
    turned = [f'{n%7}/test_{n:04d}_aligned.jpg' for n in numbers]
    (lists/'occluded.txt').write_text('\n'.join([*occluded, 'test_0999_aligned 0 1']))
    (lists/'turned.txt').write_text('\n'.join([*turned, '0/train_0000_aligned.jpg']),
                                    encoding='utf-16')
    occluded, turned = read_subsets(lists, faces)
    assert np.array_equal(occluded.positions, turned.positions) and len(turned) == 3
    chosen = faces.test[turned.positions]
    assert sorted(int(name.split('test_')[1][:4]) for name in chosen.names) == [3, 8, 11]
    assert sorted(chosen.labels.tolist()) == sorted(n % 7 for n in numbers)
    agree = "class numbers in our classes' order, 3 of 3 agree with our labels"
    assert str(occluded) == f'occluded: 4 names, 3 in test, 1 in none; {agree}'
    assert str(turned) == f'turned: 4 names, 3 in test, 1 in train; {agree}'
    published = {f'test_{n:04d}': n%7 + 1 for n in numbers}  # as RAF-DB counts
    assert f'4 {RAFDB[3]}' in subset_of(published, faces).numbers


def hashed(number):
    return hashlib.sha224(str(number).encode()).hexdigest()


def affectnet_tree(root):
    "AffectNet as first published: csv files that name pictures by hashes in numbered folders"
    for name, first in (('training', 0), ('validation', 100)):
        rows = ['subDirectory_filePath,expression']
        for number in range(first, first + 16):
            picture = f'{number%3}/{hashed(number)}.jpg'
            draw(root/'Manually_Annotated_Images'/picture, number)
            rows.append(f'{picture},{number%8}')
        (root/f'{name}.csv').write_text('\n'.join(rows))
    return affectnet(root, size=20, valid=0)


def test_affectnet_lists(tmp_path):
    faces = affectnet_tree(tmp_path/'affectnet')
    lists = tmp_path/'lists'
    lists.mkdir()
    numbers = (100, 107, 112)
    (lists/'a.txt').write_text('\n'.join(f'val/{n%8}/{hashed(n)}/' for n in numbers))
    (lists/'b.txt').write_text('\n'.join(f'{n%8}/{hashed(n)}.jpg' for n in (*numbers, 107)))
    with pytest.warns(UserWarning, match=f'twice: 1 name, the first {hashed(107)}'):
        a, b = read_subsets(lists, faces)
    assert np.array_equal(a.positions, b.positions)
    assert {faces.test.names[i].split('/')[-1] for i in a.positions} == {
        f'{hashed(n)}.jpg' for n in numbers}
    assert faces.vocab == AFFECTNET and a.numbers.endswith('3 of 3 agree with our labels')


def test_numbered_affectnet_is_refused(tmp_path):
    "Its later folders have no hashes: one line says what the names are on both sides"
    for split in ('train_set', 'val_set'):
        for stem in range(16):
            draw(tmp_path/split/'images'/f'{stem}.jpg', stem)
            (tmp_path/split/'annotations').mkdir(exist_ok=True)
            np.save(tmp_path/split/'annotations'/f'{stem}_exp.npy', str(stem % 8))
    faces = affectnet(tmp_path, size=20, valid=0)
    with pytest.raises(ValueError, match=f'none of its 1 names, the first {hashed(1)}, is among '
                       'the 16 test images of affectnet, the first 0; expected a list'):
        subset_of({hashed(1): 0}, faces)


@pytest.mark.parametrize('content, why', [
    (b'test_0001 3 4 5', "line 1: 'test_0001 3 4 5', expected a picture's name like"),
    (b'\x89PNG\r\n\x1a\n\0\0', 'no UTF-8 text; expected a list of names'),
    (b'\n\n', 'no names; expected a picture a line'),
    (b'a.png 1\nb.png 1\n2/a.jpg', 'line 3: a has class 2, but 1 in line 1')])
def test_what_is_no_list(content, why, tmp_path):
    (tmp_path/'list.txt').write_bytes(content)
    with pytest.raises(ValueError, match='list.txt') as error:
        read_list(tmp_path/'list.txt')
    assert why in str(error.value) and '\n' not in str(error.value)
    with pytest.raises(ValueError, match='is not a file|regular'):
        read_list(tmp_path)


@pytest.fixture(scope='module')
def faces(fer2013):
    return ferplus(fer2013)


@pytest.fixture(scope='module')
def lists(faces, fer2013, tmp_path_factory):
    "A made-up list: every seventh test image, two training images, and all that the votes drop"
    folder = tmp_path_factory.mktemp('lists')
    rows = [f'{label}_{name} 8 0' for name, label in zip(faces.test.names[::7],
                                                         faces.test.labels[::7].tolist())]
    rows += [f'0_{name} 8 1' for name in faces.train.names[:2]]
    kept = set(faces.test.names)
    label_file = (fer2013/'FER2013Test/label.csv').read_text().splitlines()
    named = [line.split(',')[0] for line in label_file if line.startswith('fer0')]
    rows += [f'7_{name} 8 2' for name in named if name not in kept]
    (folder/'seventh.txt').write_text('\n'.join(rows))
    return folder


def test_real_ferplus(faces, lists):
    "Positions, counts, accuracy and test of published records, against the plain computation"
    [subset] = read_subsets(lists, faces)
    assert np.array_equal(subset.positions, np.arange(0, 3137, 7))
    assert subset.elsewhere['train'] == 2 and subset.elsewhere['none'] > 400
    assert '449 of 449 agree' in subset.numbers
    a, b = [r for r in records(ROOT/'results') if r['data']['name'] == 'ferplus'][:2]
    table = subset_table([a, b], [everything(faces), subset])
    for record, row in zip((a, a, b, b), table.itertuples()):
        right = record.correct() if row.subset == 'all' else record.correct()[::7]
        assert (row.n, row.correct, row.accuracy) == (len(right), right.sum(), right.mean())
        assert row.low < row.accuracy < row.high
    found = compare_on(a, b, [subset]).iloc[0]
    assert found.p == mcnemar(a.correct()[::7], b.correct()[::7])['p']


def test_only_records_of_the_same_images(faces, lists, fer2013):
    "Test images and their order are alike without valid; other votes are other images"
    record = next(r for r in records(ROOT/'results') if r['data']['name'] == 'ferplus')
    literature = everything(protocol(faces, 'literature'))
    assert right_on(record, literature).mean() == record.metric('top1')
    [other] = read_subsets(lists, ferplus(fer2013, votes='new'))
    with pytest.raises(ValueError, match='3,137 test labels are not the 3,153 of these images'):
        right_on(record, other)
    with pytest.warns(UserWarning, match='are blank'):
        nameless = kaggle(fer2013)
    with pytest.raises(ValueError, match='the first row '):
        subset_of(read_list(lists/'seventh.txt'), nameless)


def test_the_page_on_robustness_shows_them(faces, lists, tmp_path):
    notebook = pm.execute_notebook(
        ROOT/'nbs/experiments/robustness.ipynb', tmp_path/'out.ipynb', dict(lists=str(lists)),
        kernel_name='python3', cwd=ROOT/'nbs/experiments', progress_bar=False)
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    shown = ' '.join(output.get('text', '') or ''.join(output['data'].get('text/html', ''))
                     for output in outputs)
    assert 'seventh: ' in shown and 'seventh, n = 449' in shown
    record = next(r for r in records(ROOT/'results') if r['data']['name'] == 'ferplus')
    assert f'{100*record.correct()[::7].mean():.2f} (' in shown
