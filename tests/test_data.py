"What the notebooks cannot show: the real FERPlus, kills and races, what people have on their disks"
import codecs
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.distributed import DistributedDL
from PIL import Image

from fer_nr import data, datasets, folders, pictures, splits
from fer_nr.data import (FER2013, FERPLUS, RAFDB, VOTES, Faces, FaceSet, affectnet, audit,
                         duplicates, face_dls, fer2013, ferplus, fleiss_kappa, image_folder, load,
                         majority, protocol, rafdb, vote_entropy)
from fer_nr.lab import own_face
from fer_nr.loss import released_prior
from fer_nr.photographs import read_picture
from fer_nr.registry import parts
from fer_nr.synthetic import write_ferplus


@pytest.fixture(scope='session')
def demo(tmp_path_factory):
    "A folder of drawn faces in FERPlus's formats"
    folder = tmp_path_factory.mktemp('demo') / 'fer2013'
    write_ferplus(folder, n=300, seed=3)
    return folder


@pytest.fixture(scope='session')
def faces(demo):
    return ferplus(demo)


def sizes(faces):
    return [len(split) for split in faces.splits.values()]


def copy_of(folder, place):
    return Path(shutil.copytree(folder, place, ignore=lambda *_: ['.fer_nr']))


def check_line(error):
    "An error of one printable line, without another behind it"
    assert str(error.value).isprintable() and error.value.__cause__ is None


# --- the real data set -----------------------------------------------------------------------


@pytest.fixture(scope='session')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='session')
def real(fer2013, cache):
    return ferplus(fer2013, cache=cache)


@pytest.fixture(scope='session')
def new(fer2013):
    return pd.read_csv(fer2013 / 'fer2013new.csv', keep_default_na=False)


def test_real_counts(real, fer2013, cache):
    assert sizes(real) == [25045, 3191, 3137]
    assert real.train.counts().tolist() == [8733, 7284, 3136, 3022, 2098, 116, 536, 120]
    assert real.valid.counts().tolist() == [1180, 862, 411, 348, 289, 25, 60, 16]
    assert real.test.counts().tolist() == [1083, 892, 394, 382, 269, 16, 86, 15]
    assert sizes(ferplus(fer2013, votes='new', cache=cache)) == [25060, 3199, 3153]
    assert len(protocol(real, 'literature').train) == 28236
    assert len(protocol(real, 'poster').test) == 3191
    assert len(protocol(real, 'authors').valid) == 3137


def test_real_fingerprint(real):
    "The published records name these faces"
    assert real.fingerprint == '26e8879b5bef0f34'


def test_real_seven_labels(fer2013, cache):
    with pytest.warns(UserWarning, match='12 of 35,887 pictures are blank'):
        kaggle = load('fer2013', fer2013, cache=cache)
    assert sizes(kaggle) == [28709, 3589, 3589] and kaggle.vocab == FER2013
    assert kaggle.train.counts().tolist() == [3995, 436, 4097, 7215, 4830, 3171, 4965]


def test_real_both_roads(real, fer2013, cache):
    if not (fer2013 / 'FER2013Train/fer0000000.png').exists():
        pytest.skip('no png files beside the label files')
    assert ferplus(fer2013, source='folders', cache=cache).fingerprint == real.fingerprint
    roads = [ferplus(fer2013, votes='new', source=source, cache=cache).splits
             for source in ('csv', 'folders')]
    differ = {}
    for split, csv in roads[0].items():
        png = roads[1][split]
        assert csv.names == png.names and torch.equal(csv.votes, png.votes)
        other = (csv.images != png.images).flatten(1).any(1)
        differ[split] = [csv.names[i] for i in other.nonzero()[:, 0]]
    # two rows of which a folder keeps no picture
    assert differ == {'train': ['fer0006953.png'], 'valid': [], 'test': ['fer0033120.png']}


def test_real_rows(new, fer2013, cache):
    "fer2013new.csv is joined by row: pixels against an independent reading of the csv"
    names = new['Image name']
    assert names[32298] == 'fer0032220.png' and (names == '').sum() == 173
    twice = sorted(set(names[(names != '') & names.duplicated()]))
    assert twice == ['fer0006953.png', 'fer0008403.png', 'fer0011785.png', 'fer0033120.png']
    kept = np.flatnonzero((majority(new[list(VOTES)]) >= 0) & (names != ''))
    splits = ferplus(fer2013, votes='new', cache=cache).splits
    images = torch.cat([split.images for split in splits.values()])
    assert len(kept) == len(images)
    pick = set(kept[::211]) | {5274, 33200, 32298} & set(kept)
    with open(fer2013 / 'fer2013.csv') as csv:
        for row, line in zip(range(-1, len(new)), csv):
            if row in pick:
                pixels = [int(pixel) for pixel in line.split(',')[1].split()]
                assert images[np.searchsorted(kept, row)].flatten().tolist() == pixels, row


def test_real_label_files(new, fer2013):
    label = pd.concat([datasets.label_votes(fer2013 / folder / 'label.csv')
                       for folder in datasets.FOLDERS.values()])
    votes = list(VOTES)
    assert len(label) == 35710 and (majority(label[votes]) < 0).sum() == 4337
    named = new.rename(columns={'Image name': 'name'}).drop_duplicates('name', keep='last')
    both = label.merge(named, on='name', suffixes=('', '_new'))
    differ = both[votes].to_numpy() != both[[f'{vote}_new' for vote in votes]].to_numpy()
    assert differ.any(1).sum() == 1602


def test_real_prior_rows(new, fer2013):
    "The released prior comes from 25,371 rows"
    train = new[(new.Usage == 'Training') & (new['Image name'] != '')]
    votes = train.drop_duplicates('Image name')[list(VOTES)].to_numpy()
    kept = (votes.max(1) >= votes.sum(1) / 2) & (votes.argmax(1) < 8)
    assert kept.sum() == 25371
    first = [.777334, .032610, .017447, .114091, .026224, .007145, .004379, .020772]
    prior = released_prior(fer2013 / 'fer2013new.csv')
    assert prior[0].tolist() == pytest.approx(first, abs=1e-6)


def test_real_audit(real):
    found = audit(duplicates(real))
    assert found['test images in train'] == 232 and found['valid images in train'] == 231
    assert found['with conflicting labels'] == 87
    assert audit(duplicates(protocol(real, 'dedup')))['test images in train'] == 0


def test_real_near_copies(real):
    "Pairs that the perceptual hash finds, and how many of them are one photograph"
    sets = list(real.splits.values())
    hashes = splits.perceptual_hashes(sets)
    i, j = splits.near_pairs(hashes, 8).T
    distance = np.bitwise_count(hashes[i] ^ hashes[j])
    split = np.repeat(['train', 'valid', 'test'], sizes(real))
    near = (distance <= 4) & (split[i] == 'train')
    assert [len(set(j[near & (split[j] == name)])) for name in ('valid', 'test')] == [353, 360]
    pixels = torch.cat([one.images for one in sets]).flatten(1).float()
    pixels = (pixels - pixels.mean(1, keepdim=True)) / pixels.std(1, keepdim=True).clamp(min=1e-6)
    same = ((pixels[i] * pixels[j]).mean(1) > .9).numpy()
    share = [same[distance == bits].mean() for bits in range(0, 9, 2)]
    assert share == pytest.approx([1, .89, .71, .49, .12], abs=.02)


def test_real_agreement(real):
    assert .55 < fleiss_kappa(real.train.votes) < .65
    entropy = vote_entropy(real.train.votes)
    mean = [entropy[real.train.labels == label].mean().item() for label in range(8)]
    assert FERPLUS[np.argmin(mean)] == 'happiness' and FERPLUS[np.argmax(mean)] == 'disgust'


def test_real_confusions(real, new):
    "Were two columns exchanged, faces would be confused with others: our names stand as Microsoft's"
    assert tuple(new.columns[2:]) == VOTES
    votes, labels = real.train.votes, real.train.labels
    for emotion, second in dict(fear='surprise', surprise='fear', contempt='neutral',
                                disgust='anger', sadness='neutral').items():
        mean = votes[labels == FERPLUS.index(emotion)].mean(0)
        assert [FERPLUS[i] for i in mean.argsort(descending=True)[:2]] == [emotion, second]


# --- decoded once: kills, races, full disks, damage ------------------------------------------

OPENED = '''import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)
from fer_nr.datasets import ferplus
print(ferplus(sys.argv[1], cache=sys.argv[2]).fingerprint)
print(sum(name.endswith('fer2013.csv') for name in opened))'''


def fresh(code, *args):
    "What code prints in a new interpreter"
    command = [sys.executable, '-W', 'ignore', '-c', code, *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_warm_start_leaves_the_csv_alone(demo, tmp_path, faces):
    cold, warm = fresh(OPENED, demo, tmp_path), fresh(OPENED, demo, tmp_path)
    assert cold[0] == warm[0] == faces.fingerprint
    assert int(cold[1]) > 0 and warm[1] == '0'


SLOW = '''import sys, time
from fer_nr import datasets, lists
quick = lists.picture
def slow(*args, **kwargs):
    time.sleep(.05)
    return quick(*args, **kwargs)
lists.picture = slow
datasets.ferplus(sys.argv[1], source='folders', cache=sys.argv[2])'''


def alive(process):
    stat = Path(f'/proc/{process}/stat')
    return stat.exists() and stat.read_text().rsplit(')')[-1].split()[0] != 'Z'


def test_killed_while_decoding(demo, tmp_path, faces):
    command = [sys.executable, '-W', 'ignore', '-c', SLOW, str(demo), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    end = time.time() + 120
    while not list(tmp_path.glob('.*.tmp')) and time.time() < end:
        time.sleep(.05)
    time.sleep(1)
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
    workers = children.read_text().split() if children.exists() else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob('*.npy'))
    old, = tmp_path.glob('.*.tmp')
    assert ferplus(demo, source='folders', cache=tmp_path).fingerprint == faces.fingerprint
    os.utime(old, (1, 1))
    next(tmp_path.glob('*.npy')).unlink()
    ferplus(demo, source='folders', cache=tmp_path)
    assert not list(tmp_path.glob('.*.tmp'))  # what was left is swept away
    while any(map(alive, workers)) and time.time() < end:
        time.sleep(.2)
    assert not any(map(alive, workers)), 'workers outlive a killed parent'


def test_cold_starts_at_once(demo, tmp_path, faces):
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(fresh, OPENED, demo, tmp_path) for _ in range(2)]
    assert {run.result()[0] for run in runs} == {faces.fingerprint}
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ['.json', '.npy']


def test_threads_share_a_cache(demo, tmp_path, faces):
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(ferplus, demo, cache=tmp_path) for _ in range(4)]
    assert {run.result().fingerprint for run in runs} == {faces.fingerprint}


FULL = '''import resource, sys
from fer_nr.datasets import ferplus
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for source in ('csv', 'folders'):
    try:
        ferplus(sys.argv[1], source=source, cache=sys.argv[2])
    except OSError as error:
        print('could not be written' in str(error), str(error).isprintable())'''


def test_no_room_for_the_cache(demo, tmp_path):
    "One line, and nothing is left: the room is asked for before the file is mapped"
    assert fresh(FULL, demo, tmp_path) == ['True'] * 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('damage', [lambda b: b[:-1], lambda b: b[:-1] + b'\0', lambda b: b'',
                                    lambda b: b'something else'])
@pytest.mark.parametrize('ending', ['.npy', '.json'])
def test_damaged_cache_is_made_again(demo, tmp_path, faces, damage, ending):
    ferplus(demo, cache=tmp_path)
    path, = tmp_path.glob(f'*{ending}')
    whole = path.read_bytes()
    if damage(whole) == whole:
        return
    path.write_bytes(damage(whole))
    assert ferplus(demo, cache=tmp_path).fingerprint == faces.fingerprint


def test_a_changed_fact_is_noticed(demo, tmp_path, faces):
    "A split or label beside the decoded images that is another than was written"
    ferplus(demo, cache=tmp_path)
    note, = tmp_path.glob('*.json')
    written = json.loads(note.read_text())
    moved = written['facts']['splits'].replace('r', 'e', 1)
    note.write_text(json.dumps(written | dict(facts=written['facts'] | dict(splits=moved))))
    assert ferplus(demo, cache=tmp_path).fingerprint == faces.fingerprint
    assert json.loads(note.read_text())['facts'] == written['facts']


def test_changed_csv_is_noticed(demo, tmp_path, faces):
    folder = copy_of(demo, tmp_path / 'copy')
    csv = folder / 'fer2013.csv'
    assert ferplus(folder).fingerprint == faces.fingerprint
    lines, stat = csv.read_text().split('\n'), os.stat(csv)
    names = pd.read_csv(folder / 'fer2013new.csv')['Image name'].tolist()
    row = names.index(faces.train.names[0]) + 1
    emotion, pixels, usage = lines[row].split(',')
    lines[row] = ','.join([emotion, ' '.join(reversed(pixels.split())), usage])
    csv.write_text('\n'.join(lines))
    os.utime(csv, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time
    images = ferplus(folder).train.images
    assert torch.equal(images[0].flatten(), faces.train.images[0].flatten().flip(0))
    assert torch.equal(images[1:], faces.train.images[1:])


def test_cache_falls_back_to_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    root = class_tree(tmp_path / 'faces')
    (root / '.fer_nr').write_text('no folder can be made here')
    assert sizes(image_folder(root, size=8)) == [10, 2, 12]
    assert list((tmp_path / 'fer_nr').glob('image_folder-*.npy'))


def test_one_line_errors_through_processes(demo, tmp_path):
    folder = copy_of(demo, tmp_path / 'copy')
    png = sorted((folder / 'FER2013Train').glob('*.png'))[200]
    png.write_bytes(png.read_bytes()[:100])
    with pytest.raises(ValueError, match=re.escape(str(png))) as error:
        ferplus(folder, source='folders')
    check_line(error)
    assert not list((folder / '.fer_nr').iterdir())
    Image.new('L', (64, 64)).save(png)
    with pytest.raises(ValueError, match='64×64 pixels, expected 48×48'):
        ferplus(folder, source='folders')


# --- FER2013 and FERPlus as people have them -------------------------------------------------

RNG = np.random.default_rng(0)
PIXELS = [' '.join(map(str, RNG.integers(0, 256, 48 * 48))) for _ in range(24)]
USAGE = ['Training'] * 12 + ['PublicTest'] * 6 + ['PrivateTest'] * 6


def fer_rows(order='emotion,pixels,Usage', sep=',', quote='', head=None, usage=str):
    "Lines of fer2013.csv with its columns in an order"
    lines = [head or order.replace(',', sep)]
    for i, (pixels, split) in enumerate(zip(PIXELS, USAGE)):
        row = dict(emotion=i % 7, pixels=f'{quote}{pixels}{quote}', Usage=usage(split), index=i)
        lines.append(sep.join(str(row[name]) for name in order.split(',')))
    return lines


def new_rows(sep=',', usage=str, columns=VOTES, cell='{}'):
    "Lines of fer2013new.csv: face i has ten votes for class i % 8"
    lines = [sep.join(['Usage', 'Image name', *columns])]
    for i, split in enumerate(USAGE):
        votes = [cell.format(10 * (vote == VOTES[i % 8])) for vote in columns]
        lines.append(sep.join([usage(split), f'fer{i:07}.png', *votes]))
    return lines


def text_of(lines, end='\n'):
    return end.join(lines) + end


def write(folder, name='fer2013.csv', content=None, new=None, new_name='fer2013new.csv'):
    "Both csv files in a folder"
    for file, text in ((name, text_of(fer_rows()) if content is None else content),
                       (new_name, text_of(new_rows()) if new is None else new)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def zipped(text, name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
        archive.writestr('__MACOSX/._' + name, 'x')
    return file.getvalue()


@pytest.fixture(scope='module')
def plain_fer(tmp_path_factory):
    return ferplus(write(tmp_path_factory.mktemp('plain')), votes='new')


FER_READ = dict(
    icml=dict(name='icml_face_data.csv',
              content=text_of(fer_rows('emotion,Usage,pixels', head='emotion, Usage, pixels'))),
    windows=dict(content=text_of(fer_rows(), '\r\n'), new=text_of(new_rows(), '\r\n')),
    classic_mac=dict(content=text_of(fer_rows(), '\r'), new=text_of(new_rows(), '\r')),
    bom=dict(content=codecs.BOM_UTF8 + text_of(fer_rows()).encode(),
             new=codecs.BOM_UTF8 + text_of(new_rows()).encode()),
    utf16=dict(content=text_of(fer_rows()).encode('utf-16'),
               new=text_of(new_rows()).encode('utf-16')),
    utf16_without_mark=dict(content=text_of(fer_rows()).encode('utf-16-le'),
                            new=text_of(new_rows()).encode('utf-16-be')),
    index_column=dict(content=text_of(fer_rows('index,emotion,pixels,Usage',
                                               head=',emotion,pixels,Usage'))),
    without_emotion=dict(content=text_of(fer_rows('pixels,Usage'))),
    lower_case=dict(content=text_of(fer_rows(head='EMOTION,Pixels,usage'))),
    semicolons=dict(content=text_of(fer_rows(sep=';')), new=text_of(new_rows(sep=';'))),
    tabs=dict(content=text_of(fer_rows(sep='\t')), new=text_of(new_rows(sep='\t'))),
    quoted=dict(content=text_of(fer_rows(quote='"'))),
    single_quotes=dict(content=text_of(fer_rows(quote="'"))),
    other_usage=dict(content=text_of(fer_rows(usage=str.lower)),
                     new=text_of(new_rows(usage=str.upper))),
    blank_lines=dict(content=text_of(fer_rows()) + '\n\n'),
    other_case=dict(name='FER2013.CSV', new_name='FER2013New.csv'),
    folder_above=dict(name='archive/fer2013/fer2013.csv'),
    votes_elsewhere=dict(new_name='FERPlus-master/fer2013new.csv'),
    gz=dict(name='fer2013.csv.gz', content=gzip.compress(text_of(fer_rows()).encode())),
    zip=dict(name='fer2013.csv.zip', content=zipped(text_of(fer_rows()), 'fer2013.csv')),
    float_votes=dict(new=text_of(new_rows(cell='{}.0'))),
    votes_in_another_order=dict(new=text_of(new_rows(columns=VOTES[::-1]))),
    trailing_commas=dict(new='\n'.join([new_rows()[0]] + [row + ',' for row in new_rows()[1:]])),
)


@pytest.mark.parametrize('kind', FER_READ)
def test_ferplus_reads(tmp_path, kind, plain_fer):
    "Whatever a csv went through, the faces are the same"
    folder = write(tmp_path, **FER_READ[kind])
    assert ferplus(folder, votes='new').fingerprint == plain_fer.fingerprint


def test_ferplus_paths(tmp_path, plain_fer, monkeypatch):
    folder = write(tmp_path / 'fer')
    monkeypatch.setenv('HOME', str(tmp_path))
    for path in (folder / 'fer2013.csv', str(folder), '~/fer', tmp_path):
        assert ferplus(path, votes='new').fingerprint == plain_fer.fingerprint
    assert [split.labels.tolist() for split in plain_fer.splits.values()] == [
        [i % 8 for i in range(*rows)] for rows in ((0, 12), (12, 18), (18, 24))]


def edited(lines, i, edit):
    return text_of([edit(line) if k == i else line for k, line in enumerate(lines)])


FER_REFUSED = dict(
    no_votes=(dict(new_name='x.csv'), 'no fer2013new.csv.*it is the data set fer2013'),
    no_csv=(dict(name='x.csv'), 'neither fer2013.csv nor.*found fer2013new.csv, x.csv'),
    both=(dict(name='a/fer2013.csv', new_name='b/fer2013.csv'), 'is there 2 times'),
    column=(dict(content=text_of(fer_rows(head='emotion,pixels,Set'))), 'no column Usage'),
    no_header=(dict(content=text_of(fer_rows()[1:])), 'no column pixels, Usage in its first line'),
    cut=(dict(content=text_of(fer_rows())[:-6000]), 'ends after .* pixels.*truncated'),
    cut_at_a_line=(dict(content=text_of(fer_rows()[:-2])), '22 rows, but fer2013new.csv has 24'),
    votes_cut=(dict(new=text_of(new_rows()[:-2])), '24 rows, but fer2013new.csv has 22'),
    tail=(dict(content=text_of(fer_rows()) + 'fer2013.bib\0\n@inc{x, a, b}\n'), r'csv, line 26'),
    sorted=(dict(content=text_of(fer_rows()[:1] + sorted(fer_rows()[1:]))), 'another Usage'),
    usage=(dict(new=edited(new_rows(), 3, lambda row: 'Nothing' + row[8:])), "line 4: Usage 'Noth"),
    few_pixels=(dict(content=edited(fer_rows(), 2, lambda row: row.replace(' ', '', 1))),
                'line 3: 2,303 pixels'),
    letters=(dict(content=edited(fer_rows(), 2, lambda row: row.replace(' ', ' x', 1))),
             'line 3'),
    large=(dict(content=edited(fer_rows(), 2, lambda row: row.replace(' ', ' 429496729', 1))),
           'line 3: pixels that are no whole numbers from 0 to 255'),
    points=(dict(content=edited(fer_rows(), 2, lambda row: row.replace(' ', '.5 ', 1))), 'line 3'),
    shares=(dict(new=text_of(new_rows(cell='0.{}'))), "line 2: happiness is '0.0'|'0.10'"),
    no_vote=(dict(new=edited(new_rows(), 3, lambda row: row.replace('10', ''))), 'line 4: surp'),
    minus=(dict(new=edited(new_rows(), 3, lambda row: row.replace('10', '-1'))), "is '-1'"),
    giant=(dict(new=edited(new_rows(), 3, lambda row: row.replace('10', '1e30'))), "is '1e30'"),
    all_zero=(dict(new=text_of(new_rows(cell='0')).replace('10', '0')), 'an empty split'),
    no_test=(dict(content=text_of(fer_rows()).replace('PrivateTest', 'PublicTest'),
                  new=text_of(new_rows()).replace('PrivateTest', 'PublicTest')), 'test 0'),
    twice=(dict(new=text_of(new_rows()).replace('NF', 'fear', 1)), 'fear is there 2 times'),
    path=(dict(new=edited(new_rows(), 3, lambda row: row.replace('fer', '../../fer'))),
          'line 4.*leads out of the data folder'),
    escape=(dict(new=edited(new_rows(), 3, lambda row: row.replace('fer', '\x1b[2Jfer'))),
            r'line 4.*\\x1b'),
    latin=(dict(new=text_of(new_rows()).replace('fer0000003', 'fér').encode('latin-1')),
           'line 5: no UTF-8 text'),
    empty=(dict(content=''), 'no column'),
    header_only=(dict(content='emotion,pixels,Usage\n'), 'no rows'),
    damaged_gz=(dict(name='fer2013.csv.gz', content=gzip.compress(b'emotion' * 999)[:-9]),
                'damaged|no column'),
    no_zip=(dict(name='fer2013.csv.zip', content=b'PK'), 'damaged'),
    bomb=(dict(name='fer2013.csv.gz', content=gzip.compress(b'0' * (1 << 22))), 'a line of more'),
)


@pytest.mark.parametrize('kind', FER_REFUSED)
def test_ferplus_refuses(tmp_path, kind):
    files, said = FER_REFUSED[kind]
    with pytest.raises((ValueError, OSError), match=said) as error:
        ferplus(write(tmp_path, **files), votes='new')
    check_line(error)
    assert str(tmp_path) in str(error.value) or 'ferplus-new' in str(error.value)


def test_shuffled_rows_are_noticed(tmp_path):
    "Rows in another order within each Usage: only the labels can tell"
    write_ferplus(tmp_path, n=1000, seed=4)
    csv = pd.read_csv(tmp_path / 'fer2013.csv')
    train = csv[csv.Usage == 'Training'].sample(frac=1, random_state=0)
    pd.concat([train, csv[csv.Usage != 'Training']]).to_csv(tmp_path / 'fer2013.csv', index=False)
    with pytest.raises(ValueError, match='by chance; expected the rows in Kaggle'):
        ferplus(tmp_path)


def test_label_files(demo, tmp_path, faces):
    "A header, another encoding and order; what is refused"
    folder = copy_of(demo, tmp_path / 'copy')
    label = folder / 'FER2013Valid/label.csv'
    text = label.read_text()
    head = f'Image name,Face box,{",".join(VOTES)}\n'
    for content in (head + text, text.replace('\n', '\r\n'), '\ufeff' + text):
        label.write_text(content, encoding='utf-8', newline='')
        assert ferplus(folder).fingerprint == faces.fingerprint
    lines = text.splitlines(keepends=True)
    for content, said in ((text + lines[0], f'line {len(lines) + 1}.*stands in line 1 already'),
                          (''.join(lines[:-1]), '1 pictures of fer2013new.csv are not in it'),
                          (text[:-9], f'line {len(lines)}'),
                          ('../../x.png' + text[14:], 'line 1.*leads out'),
                          ('/etc/x.png' + text[14:], 'line 1.*leads out')):
        label.write_text(content)
        for source in ('csv', 'folders'):
            if source == 'folders' and 'not in it' in said:
                continue
            with pytest.raises(ValueError, match=said) as error:
                ferplus(folder, source=source)
            check_line(error)


def test_missing_png(demo, tmp_path, faces):
    folder = copy_of(demo, tmp_path / 'copy')
    (folder / 'FER2013Test' / faces.test.names[2]).unlink()
    with pytest.raises(FileNotFoundError, match="missing='skip' goes on without .1 missing"):
        ferplus(folder, source='folders')
    with pytest.warns(UserWarning, match=f'skipped 1 of.*{faces.test.names[2]}'):
        found = ferplus(folder, source='folders', missing='skip')
    assert found.test.names == faces.test.names[:2] + faces.test.names[3:]


def test_super_resolved_folders(demo, tmp_path, faces):
    "The authors' way: FERPlus's folders with larger pictures in them"
    for path in demo.glob('FER2013*/*'):
        place = tmp_path / path.relative_to(demo)
        place.parent.mkdir(exist_ok=True)
        if path.suffix == '.png':
            Image.open(path).resize((96, 96)).convert('RGB').save(place)
        else:
            place.write_bytes(path.read_bytes())
    large = load('ferplus', tmp_path, size=96, source='folders')
    assert large.train.images.shape[1:] == (1, 96, 96) and large.test.names == faces.test.names
    assert torch.equal(large.train.labels, faces.train.labels)
    with pytest.raises(ValueError, match="expected source='folders'"):
        ferplus(demo, size=96, source='csv')


def test_seven_labels(tmp_path):
    found = fer2013(write(tmp_path, new_name='x.csv'))
    assert found.vocab == FER2013 and found.train.votes is None
    labels = [label for split in found.splits.values() for label in split.labels.tolist()]
    assert labels == [i % 7 for i in range(24)]
    assert found.test.images[0].flatten().tolist() == [int(pixel) for pixel in PIXELS[18].split()]
    content = edited(fer_rows(), 4, lambda row: '7' + row[1:])
    with pytest.raises(ValueError, match='line 5: emotion'):
        fer2013(write(tmp_path, content=content))


# --- class folders ---------------------------------------------------------------------------


def drawing(kind, size=24):
    "A picture whose red channel is 30 * (kind + 1)"
    return Image.new('RGB', (size, size), (30 * (kind + 1), 0, 255)), 30 * (kind + 1)


def put(path, kind=0, size=24, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = drawing(kind, size)[0]
    image.putpixel((0, 0), (0, 0, 0))  # not blank
    image.save(path, **kwargs)


def class_tree(root, classes=('a', 'b'), names=('train', 'test'), n=6, ending='.png'):
    "`n` pictures of each class in folders of splits"
    for split in names:
        for kind, name in enumerate(classes):
            for i in range(n):
                put(root / split / name / f'{i}{ending}', kind)
    return root


def check_labels(faces, kind_of):
    "Each picture has the label of what is drawn on it"
    for split in faces.splits.values():
        red = split.images[:, 0].float().flatten(1).median(1).values
        for value, label in zip(red.tolist(), split.labels.tolist()):
            assert abs(value - 30 * (kind_of[faces.vocab[label]] + 1)) < 5


SPLITS = [('Train', 'Test'), ('TRAINING', 'Testing'), ('train', 'validation', 'test'),
          ('Training', 'PublicTest', 'PrivateTest'), ('train', 'dev', 'test'), ('train', 'val'),
          ('train_set', 'val_set', 'test_set'), ('train', 'valid'), ('train-data', 'test-data')]


@pytest.mark.parametrize('names', SPLITS, ids='-'.join)
def test_names_of_splits(tmp_path, names):
    found = image_folder(class_tree(tmp_path, names=names), size=8)
    check_labels(found, dict(a=0, b=1))
    which = dict(zip(names, map(folders.split_of, names)))
    for folder, split in which.items():
        inside = [name for name in found.splits[split].names if name.startswith(folder + '/')]
        carved = split == 'train' and len(names) < 3
        assert len(inside) == (10 if carved else 12) and len(inside) == len(found.splits[split])


@pytest.mark.parametrize('inside', ['', 'archive', 'images/faces', 'archive/data set (2)/ä'])
def test_nested_folders(tmp_path, inside):
    class_tree(tmp_path / inside)
    (tmp_path / 'labels.csv').write_text('left out')
    with pytest.warns(UserWarning, match='1 .csv') if not inside else nullcontext():
        assert sizes(image_folder(tmp_path, size=8)) == [10, 2, 12]


def strange(tmp_path, *files, names=('train', 'test'), classes=('a', 'b')):
    class_tree(tmp_path, classes, names)
    for file in files:
        put(tmp_path / file)
    return tmp_path


REFUSED = dict(
    beside_splits=(lambda p: strange(p, 'more/a/1.png'), 'more beside the splits'),
    classes_and_splits=(lambda p: strange(p, 'happy/1.png'), 'happy beside the splits'),
    stray=(lambda p: strange(p, 'train/1.png'), '1 pictures lie beside class folders'),
    stray_at_the_top=(lambda p: strange(p, '1.png'), '1.png beside the splits'),
    two_valid=(lambda p: class_tree(p, names=('train', 'val', 'validation')), 'val, validation'),
    no_train=(lambda p: class_tree(p, names=('val', 'test')), 'expected one to train on'),
    yolo=(lambda p: class_tree(p, ('images', 'labels')), 'images and labels are no classes'),
    yolo_the_other_way=(lambda p: class_tree(p, ('train', 'val'), ('images', 'labels')),
                        'a folder of folders|are no classes'),
    nested=(lambda p: strange(p, 'train/a/x/1.png'), 'a: a folder of folders .x'),
    deep=(lambda p: class_tree(p / 'x', ('train',), ('a', 'b')), 'a folder of folders .train'),
    empty=(lambda p: (strange(p), (p / 'train/c').mkdir())[0], 'c: no picture in it'),
    test_more=(lambda p: strange(p, 'test/c/1.png'), 'train has the classes a, b, but test has a'),
    train_more=(lambda p: strange(p, 'train/c/1.png'), 'but test has a, b; expected the same'),
    case=(lambda p: class_tree(class_tree(p, names=['train']), ('A', 'b'), ['test']),
          'only capital letters differ'),
    case_within=(lambda p: class_tree(p, ('a', 'A', 'b')), 'differ in capital letters alone'),
    spaces=(lambda p: class_tree(class_tree(p, ('a ', 'b'), ['train']), names=['test']),
            'only letters or spaces differ that look alike'),
    accents=(lambda p: class_tree(class_tree(p, ('a', 'e\u0301'), ['train']), ('a', '\xe9'),
                                  ['test']), 'only letters or spaces differ that look alike'),
    loop=(lambda p: (strange(p), (p / 'train/a/x').symlink_to(p / 'train'))[0],
          'a: a folder of folders .x'),
    empty_loop=(lambda p: ((p / 'a').mkdir(), (p / 'a/x').symlink_to(p / 'a'))[1] or p,
                'Too many levels|no picture in it'),
    no_path=(lambda p: '', "path='': expected a folder of class folders"),
    none=(lambda p: None, 'path=None: expected a folder of class folders'),
    one=(lambda p: class_tree(p, ['a']), 'one class, a'),
    flat=(lambda p: strange(p, 'happy_1.png', names=()), '1 pictures lie beside class folders'),
    few=(lambda p: class_tree(p, names=['train'], n=1), 'train 2, valid 0, test 0'),
    no_picture=(lambda p: (p / 'a').mkdir() or p, 'no picture in it'),
    nothing=(lambda p: p, 'no class folder with pictures; found nothing'),
    zip=(lambda p: (p / 'train.zip').write_bytes(b'PK') and p, 'found train.zip'),
    file=(lambda p: (p / 'a.zip').write_bytes(b'PK') and p / 'a.zip', 'a file, unpack it first'),
    nowhere=(lambda p: p / 'nope', 'nope: not found; expected a folder of class folders'),
    link=(lambda p: (strange(p), (p / 'train/a/x.png').symlink_to(p / 'nope'))[0], 'to nowhere'),
    pipe=(lambda p: (strange(p), os.mkfifo(p / 'train/a/x.png'))[0], 'a pipe or a device'),
    device=(lambda p: (strange(p), (p / 'train/a/x.png').symlink_to('/dev/zero'))[0], 'a device'),
    control=(lambda p: strange(p, 'train/a/x\x1b[2J\n.png'), r'x\\x1b\[2J\\n.png'),
    not_utf8=(lambda p: strange(p, os.fsdecode(b'train/a/\xff.png')), 'not UTF-8'),
    not_utf8_class=(lambda p: strange(p, os.fsdecode(b'train/\xff/1.png')), 'not UTF-8'),
    postscript=(lambda p: (strange(p), (p / 'train/a/x.png').write_text('%!PS-Adobe'))[0],
                'x.png: not a readable image'),
    text=(lambda p: (strange(p), (p / 'train/a/x.jpg').write_text('<!DOCTYPE html>'))[0],
          'x.jpg: not a readable image'),
)


@pytest.mark.parametrize('kind', REFUSED)
def test_image_folder_refuses(tmp_path, kind):
    build, said = REFUSED[kind]
    with pytest.raises((ValueError, OSError), match=said) as error:
        image_folder(build(tmp_path), size=8)
    check_line(error)


def test_left_out_is_said(tmp_path):
    class_tree(tmp_path)
    for name in ('Thumbs.db', '.DS_Store', '._0.png', 'x.png:Zone.Identifier', 'notes.TXT',
                 'x.heic'):
        (tmp_path / 'train/a' / name).write_bytes(b'x')
    for place in ('__MACOSX/a', 'train/__MACOSX/a', 'train/a/.ipynb_checkpoints'):
        put(tmp_path / place / 'x.png')
    with pytest.warns(UserWarning) as said:
        found = image_folder(tmp_path, size=8)
    assert sizes(found) == [10, 2, 12] and len(said) == 1
    line = str(said[0].message)
    for part in ('1 .db', '1 .txt', '1 .heic', '1 .identifier', 'hidden'):
        assert part in line


@pytest.mark.parametrize('ending,form', [('.jfif', 'JPEG'), ('', 'PNG'), ('.JPG', 'JPEG'),
                                         ('.jp2', 'JPEG2000'), ('.tga', 'TGA'), ('.webp', 'WEBP')])
def test_endings(tmp_path, ending, form):
    for split in ('train', 'test'):
        for kind, name in enumerate('ab'):
            for i in range(6):
                put(tmp_path / split / name / f'{i}{ending}', kind, format=form)
    found = image_folder(tmp_path, size=24)
    assert sizes(found) == [10, 2, 12]
    check_labels(found, dict(a=0, b=1))


def test_numbered_folders(tmp_path):
    class_tree(tmp_path, '1234567')
    kind_of = {name: kind for kind, name in enumerate(RAFDB)}
    names = {i + 1: name for i, name in enumerate(RAFDB)}  # as YAML reads them
    for found in (image_folder(tmp_path, size=8, names=names), rafdb(tmp_path, size=8),
                  image_folder(tmp_path, size=8, vocab=RAFDB)):
        assert found.vocab == RAFDB
        check_labels(found, kind_of)
    with pytest.warns(UserWarning, match="folders are numbers; names="):
        assert image_folder(tmp_path, size=8).vocab == tuple('1234567')
    with pytest.raises(ValueError, match="folders are numbers; names="):
        image_folder(tmp_path, vocab=FERPLUS[:7])
    with pytest.raises(ValueError, match="class folder '7' is unknown"):
        image_folder(tmp_path, names={str(i): str(i) for i in range(1, 7)})
    merged = image_folder(tmp_path, size=8, names={k: 'x' if k < '4' else 'y' for k in '1234567'})
    assert merged.vocab == ('x', 'y') and merged.test.counts().tolist() == [18, 24]


def test_vocab(tmp_path):
    class_tree(tmp_path, ('happy', 'sad'))
    assert image_folder(tmp_path, size=8, vocab=('sad', 'happy', 'angry')).vocab[0] == 'sad'
    with pytest.raises(ValueError, match="class 'sad' is unknown.*did you mean 'sadd'"):
        image_folder(tmp_path, vocab=('happy', 'sadd'))
    put(tmp_path / 'test/angry/1.png')
    with pytest.raises(ValueError, match='test has angry, of which train has no picture'):
        image_folder(tmp_path, vocab=('sad', 'happy', 'angry'))


@pytest.mark.parametrize('wrong', [dict(valid=2), dict(test=-1), dict(size=0), dict(size='48'),
                                   dict(valid=float('nan')), dict(size=4.5), dict(seed=-1),
                                   dict(valid=1), dict(size=True), dict(names=['a'])])
def test_wrong_options(tmp_path, wrong):
    name, = wrong
    with pytest.raises(ValueError, match=f'{name}=.*expected') as error:
        image_folder(class_tree(tmp_path), **wrong)
    check_line(error)


def test_empty_valid_is_said(tmp_path):
    with pytest.warns(UserWarning, match='valid is empty'):
        found = image_folder(class_tree(tmp_path, n=2), size=8)
    assert found.valid is None and sizes(found) == [4, 4]
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # nothing to say where it was asked for
        assert image_folder(tmp_path, size=8, valid=0).valid is None


def test_broken_pictures_are_skipped_if_one_says_so(tmp_path):
    "As if they were not there: the same splits; named and counted, also by the cache"
    class_tree(tmp_path)
    whole = image_folder(tmp_path, size=8)
    (tmp_path / 'train/a/empty.png').write_bytes(b'')
    (tmp_path / 'test/b/page.jpg').write_text('<!DOCTYPE html>')
    with pytest.raises(ValueError, match='empty.png: not a readable image'):
        image_folder(tmp_path, size=8)
    for _ in range(2):  # cold and warm
        with pytest.warns(UserWarning, match='skipped 2 of 26 that cannot be read'):
            assert image_folder(tmp_path, size=8, missing='skip').fingerprint == whole.fingerprint
    (tmp_path / 'train/a/empty.png').write_bytes((tmp_path / 'train/a/0.png').read_bytes())
    with pytest.warns(UserWarning, match='skipped 1 of 26'):
        assert sizes(image_folder(tmp_path, size=8, missing='skip')) == [11, 2, 12]


def test_other_pictures_other_fingerprint(tmp_path):
    first = image_folder(class_tree(tmp_path), size=8).fingerprint
    put(tmp_path / 'train/a/0.png', 5)
    second = image_folder(tmp_path, size=8).fingerprint
    (tmp_path / 'train/a/9.png').write_bytes((tmp_path / 'train/a/1.png').read_bytes())
    assert len({first, second, image_folder(tmp_path, size=8).fingerprint}) == 3


# --- RAF-DB and AffectNet --------------------------------------------------------------------


def raf_tree(root, place='EmoLabel/list_patition_label.txt', images='Image/aligned', ending='.jpg',
             line='{}.jpg {}\n', encoding='utf-8'):
    "28 pictures in train and in test, in RAF-DB's layout"
    rows = [(f'{split}_{i:05}', i % 7) for split in ('train', 'test') for i in range(1, 29)]
    for name, kind in rows:
        suffix = '_aligned' if 'aligned' in images else ''
        put(root / images / f'{name}{suffix}{ending}', kind, 100)
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    text = ''.join(line.format(name, kind + 1) for name, kind in rows)
    (root / place).write_text(text, encoding=encoding, newline='')
    return root


RAF_READ = dict(
    plain={},
    deep=dict(place='basic/EmoLabel/list_patition_label.txt', images='basic/Image/aligned'),
    beside=dict(place='list_patition_label.txt'),
    inside=dict(place='Image/list_patition_label.txt'),
    spelling=dict(place='EmoLabel/list_partition_label.txt'),
    lower=dict(place='emolabel/list_patition_label.txt', images='image/aligned'),
    windows=dict(line='{}.jpg {}\r\n'), commas=dict(line='{}.jpg,{}\n'),
    tabs=dict(line='{}.jpg\t{}\n'),
    semicolons=dict(line='"{}.jpg"; {}\n'), third=dict(line='{}.jpg {} 0\n'),
    bom=dict(encoding='utf-8-sig'), utf16=dict(encoding='utf-16'), png=dict(ending='.png'))


@pytest.mark.parametrize('kind', RAF_READ)
def test_rafdb_reads(tmp_path, kind):
    found = rafdb(raf_tree(tmp_path, **RAF_READ[kind]), size=24, valid=.25)
    assert sizes(found) == [21, 7, 28] and found.vocab == RAFDB
    assert found.train.counts().tolist() == [3] * 7 and found.valid.counts().tolist() == [1] * 7
    check_labels(found, {name: kind for kind, name in enumerate(RAFDB)})


def test_rafdb_faults(tmp_path):
    place = raf_tree(tmp_path) / 'EmoLabel/list_patition_label.txt'
    found = rafdb(tmp_path, size=8, valid=.25)
    assert found.fingerprint != rafdb(tmp_path, size=8, valid=.25, seed=1).fingerprint
    assert sizes(protocol(found, 'literature')) == [28, 28]
    with pytest.raises(FileNotFoundError, match='no Image/original; found aligned in Image'):
        rafdb(tmp_path, kind='original')
    with pytest.raises(ValueError, match="did you mean 'aligned'"):
        rafdb(tmp_path, kind='align')
    text = place.read_text()
    for content, said in ((text.replace(' 3\n', ' 8\n', 1), 'line 2'), (text[:-3], 'line 56'),
                          (text + 'test_00001.jpg 2\n', 'stands in line 29 already'),
                          (text.replace('train_', '../train_', 1), 'line 1'), ('', 'empty split')):
        place.write_text(content)
        with pytest.raises(ValueError, match=said) as error:
            rafdb(tmp_path)
        check_line(error)
    place.write_text(''.join(text.splitlines(keepends=True)[:-1]))  # cut at a line
    with pytest.warns(UserWarning, match='1 pictures that the list does not name'):
        assert len(rafdb(tmp_path, size=8).test) == 27
    place.write_text(text)
    (tmp_path / 'Image/aligned/test_00003_aligned.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='test_00003_aligned.jpg: not found'):
        rafdb(tmp_path)
    with pytest.warns(UserWarning, match='skipped 1 of 28'):
        assert len(rafdb(tmp_path, size=8, missing='skip').test) == 27
    (tmp_path / 'Image/aligned/train_00003_aligned.jpg').write_bytes(b'')
    with pytest.warns(UserWarning, match='skipped 1 of 55 that cannot be read'):
        assert sizes(rafdb(tmp_path, size=8, missing='skip', valid=0)) == [27, 27]
    place.unlink()
    with pytest.raises(FileNotFoundError, match='no its list of labels|list_patition_label.txt'):
        rafdb(tmp_path)


def affect_tree(root, n=40):
    for i in range(n):
        folder = root / ('val_set' if i % 4 == 0 else 'train_set')
        put(folder / f'images/{i}.png', i % 11 % 8)
        (folder / 'annotations').mkdir(exist_ok=True)
        np.save(folder / f'annotations/{i}_exp.npy', np.array(str(i % 11)))
    return root


def test_affectnet_drops_and_maps(tmp_path):
    found = affectnet(affect_tree(tmp_path), size=8, valid=0)
    assert found.vocab == datasets.AFFECTNET and found.valid is None
    check_labels(found, {name: kind for kind, name in enumerate(found.vocab)})
    assert found.test.names[:3] == ['0.png', '4.png', '12.png']  # 8 is dropped; by number
    storage = [split.images.untyped_storage().data_ptr() for split in found.splits.values()]
    assert len(set(storage)) == 1  # both are views of one mapped file
    (tmp_path / 'train_set/annotations/7_exp.npy').unlink()
    with pytest.raises(FileNotFoundError, match='7_exp.npy: not found'):
        affectnet(tmp_path)
    with pytest.warns(UserWarning, match='skipped 1 of 30'):
        assert '7.png' not in affectnet(tmp_path, size=8, valid=0, missing='skip').train.names


def test_affectnet_pictures(tmp_path):
    "An annotation without its picture, and two pictures of one name"
    affect_tree(tmp_path)
    (tmp_path / 'train_set/images/7.png').unlink()
    with pytest.raises(FileNotFoundError, match='7.jpg: not found'):
        affectnet(tmp_path)
    with pytest.warns(UserWarning, match='skipped 1 of 30'):
        affectnet(tmp_path, size=8, valid=0, missing='skip')
    put(tmp_path / 'train_set/images/5.bmp')
    with pytest.raises(ValueError, match='5.bmp is there, too'):
        affectnet(tmp_path, missing='skip')


@pytest.mark.parametrize('content', [np.array([{'a': 1}], dtype=object), np.array('2.7'),
                                     np.array(2.7), np.array('x'), np.array(11), np.zeros(3)])
def test_affectnet_annotations(tmp_path, content):
    affect_tree(tmp_path)
    np.save(tmp_path / 'train_set/annotations/1_exp.npy', content, allow_pickle=True)
    with pytest.raises(ValueError, match='1_exp.npy: (not an annotation|class)') as error:
        affectnet(tmp_path)
    check_line(error)


HEAD = 'subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression'


def affect_csv(root, head, row, n=16, images='Manually_Annotated_Images', place='.'):
    "Both lists; pictures with a grey frame around 20×20 pixels of the class's colour"
    for name, start in (('training.csv', 0), ('validation.csv', n)):
        lines = [head]
        for i in range(start, start + n):
            large = Image.new('RGB', (50, 40), (128, 128, 128))
            large.paste(drawing(i % 8)[0].resize((20, 20)), (10, 5))
            (root / images / '7').mkdir(parents=True, exist_ok=True)
            large.save(root / images / f'7/{i}.png')
            lines.append(row.format(f'7/{i}.png', i % 8))
        (root / place).mkdir(exist_ok=True)
        (root / place / name).write_text('\n'.join(lines) + '\n')
    return root


CSV_READ = dict(
    plain=dict(head=HEAD, row='{},10,5,20,20,,{}'),
    semicolons=dict(head=HEAD.replace(',', ';'), row='{};10;5;20;20;;{}'),
    order=dict(head='expression,face_x,face_y,face_width,face_height,image',
               row='{1},10,5,20,20,{0}'),
    index=dict(head=',' + HEAD, row='0,{},10,5,20,20,,{}'),
    lists_in_a_folder=dict(head=HEAD, row='{},10,5,20,20,,{}',
                           place='Manually_Annotated_file_lists'),
    twice_deep=dict(head=HEAD, row='{},10,5,20,20,,{}',
                    images='Manually_Annotated/Manually_Annotated_Images'))


@pytest.mark.parametrize('kind', CSV_READ)
def test_affectnet_csv_reads(tmp_path, kind):
    found = affectnet(affect_csv(tmp_path, **CSV_READ[kind]), size=8, valid=0)
    assert sizes(found) == [16, 16]
    check_labels(found, {name: kind for kind, name in enumerate(found.vocab)})


def test_affectnet_csv_without_boxes(tmp_path):
    "The pictures are faces that are cut out"
    root = affect_csv(tmp_path, 'subDirectory_filePath,expression', '{},{}')
    found = affectnet(root, size=40, valid=0)
    assert found.train.images[0, 0, 0].tolist() == [128] * 40  # the frame is there
    (root / 'Manually_Annotated_Images/7/3.png').unlink()
    with pytest.raises(FileNotFoundError, match='7/3.png: not found'):
        affectnet(root)
    with pytest.warns(UserWarning, match='skipped 1 of 16'):
        assert len(affectnet(root, size=8, missing='skip', valid=0).train) == 15


CSV_REFUSED = dict(
    some_boxes=('subDirectory_filePath,face_x,expression', '{},1,{}', 'face box only face_x'),
    outside=(HEAD, '{},60,5,20,20,,{}', 'lies outside of the 50×40 picture'),
    text=(HEAD, '{},10,5,wide,20,,{}', "line 2: face_width is 'wide'"),
    class_11=(HEAD, '{},10,5,20,20,,1{}', 'line 3: expression is .11'),
    part=(HEAD, '{},10,5,20,20,,{}.5', "line 2: expression is '0.5'"),
    cells=(HEAD, '{},10,5,20,20,{}', 'line 2: 6 values, expected 7'),
    above=(HEAD, '../{},10,5,20,20,,{}', 'line 2.*leads out'),
    absolute=(HEAD, '/{},10,5,20,20,,{}', 'line 2.*leads out'))


@pytest.mark.parametrize('kind', CSV_REFUSED)
def test_affectnet_csv_refuses(tmp_path, kind):
    head, row, said = CSV_REFUSED[kind]
    with pytest.raises(ValueError, match=said) as error:
        affectnet(affect_csv(tmp_path, head, row), size=8)
    check_line(error)


def test_affectnet_as_class_folders(tmp_path):
    names = 'Anger Contempt Disgust Fear Happy Neutral Sad Surprise'.split()
    found = affectnet(class_tree(tmp_path / 'x', names, ('Train', 'Val')), size=8)
    assert found.vocab == datasets.AFFECTNET and found.valid is None and sizes(found) == [48, 48]
    kind_of = {datasets.expression(name, found.vocab): kind for kind, name in enumerate(names)}
    check_labels(found, kind_of)
    with pytest.raises(ValueError, match='are no classes'):
        affectnet(class_tree(tmp_path / 'y', ('images', 'labels')))
    with pytest.raises(ValueError, match="class folder 'bored' is unknown"):
        affectnet(class_tree(tmp_path / 'z', (*names, 'bored')))


def test_one_level_deeper(tmp_path):
    deep = affectnet(affect_tree(tmp_path / 'y/human_annotated').parent, size=8).test
    assert deep.names == affectnet(affect_tree(tmp_path / 'x'), size=8).test.names


# --- pictures --------------------------------------------------------------------------------

RAMP = np.tile(np.linspace(20, 235, 48).round().astype(np.uint8), (48, 1))
RAMP[:24] //= 2
GREY = Image.fromarray(RAMP)
RGB = GREY.convert('RGB')


def turned(how, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return dict(image=RGB.transpose(how), exif=exif)


KINDS = {
    'rgb.png': dict(image=RGB), 'grey.png': dict(image=GREY),
    'rgb.jpg': dict(image=RGB, quality=95),
    '16.png': dict(image=Image.fromarray(RAMP.astype(np.uint16) * 257)),
    '16.tif': dict(image=Image.fromarray(RAMP.astype(np.uint16) * 257)),
    '16.jp2': dict(image=Image.fromarray(RAMP.astype(np.uint16) * 257)),
    'white_is_0.tif': dict(image=Image.fromarray((255 - RAMP).astype(np.uint16) * 257),
                           tiffinfo={262: 0}),
    '16.pgm': dict(image=Image.fromarray(RAMP.astype(np.int32) * 257)),
    'float_255.tif': dict(image=Image.fromarray(RAMP.astype(np.float32))),
    'float_1.tif': dict(image=Image.fromarray(RAMP / np.float32(255))),
    'palette.png': dict(image=RGB.quantize(256)), 'la.png': dict(image=GREY.convert('LA')),
    'alpha.png': dict(image=RGB.convert('RGBA')), 'cmyk.jpg': dict(image=RGB.convert('CMYK')),
    'ycbcr.tif': dict(image=RGB.convert('YCbCr')), 'x.gif': dict(image=RGB),
    'upside.jpg': turned(Image.Transpose.ROTATE_180, 3),
    'left.jpg': turned(Image.Transpose.ROTATE_90, 6),
    'right.png': turned(Image.Transpose.ROTATE_270, 8),
    'bad_exif.jpg': dict(image=RGB, exif=b'Exif\0\0II*\0\x08\0\0\0\xff\xff'),
    'two.gif': dict(image=RGB, save_all=True, append_images=[Image.new('RGB', (48, 48))]),
}


@pytest.mark.parametrize('grey', [True, False])
@pytest.mark.parametrize('name', KINDS)
def test_kinds_of_pictures(tmp_path, name, grey):
    kwargs = dict(KINDS[name])
    kwargs.pop('image').save(tmp_path / name, **kwargs)
    image = pictures.picture(tmp_path / name, grey=grey)
    assert image.shape == (1 if grey else 3, 48, 48)
    assert abs(image.astype(float) - RAMP).mean() < 4
    if not grey:  # the recogniser and the lab see what the loader sees
        seen = np.asarray(read_picture(tmp_path / name)).transpose(2, 0, 1)
        uploaded = own_face((tmp_path / name).read_bytes(), chans=3)[0] * 255
        assert (seen == image).all() and (uploaded.round().numpy() == image).all()


def test_one_bit(tmp_path):
    GREY.convert('1').save(tmp_path / 'x.png')
    assert np.unique(pictures.picture(tmp_path / 'x.png')).tolist() == [0, 255]


WRONG = dict(
    wild=lambda path: Image.fromarray(RAMP * np.float32(9)).save(path, 'TIFF'),
    minus=lambda path: Image.fromarray(-RAMP.astype(np.float32)).save(path, 'TIFF'),
    nan=lambda path: Image.fromarray(RAMP / np.float32('nan')).save(path, 'TIFF'),
    bits_12=lambda path: Image.fromarray(RAMP.astype(np.uint16) * 16).save(path, 'TIFF'),
    bits_8_of_16=lambda path: Image.fromarray(RAMP.astype(np.uint16)).save(path, 'PNG'),
    lab=lambda path: RGB.convert('LAB').save(path, 'TIFF'),
    whole_32=lambda path: Image.fromarray(RAMP.astype(np.int32)).save(path, 'TIFF'),
    cut=lambda path: path.write_bytes(encoded(RGB.resize((96, 96)), 'JPEG')[:-300]),
    empty=lambda path: path.write_bytes(b''),
    heic=lambda path: path.write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + b'\0' * 200),
    lfs=lambda path: path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:a\n'),
    postscript=lambda path: path.write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'),
    bomb=lambda path: Image.new('1', (10_000, 10_000)).save(path, 'PNG'))


def encoded(image, form):
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


@pytest.mark.parametrize('kind', WRONG)
def test_wrong_pictures(tmp_path, kind):
    WRONG[kind](tmp_path / 'x.jpg')
    with pytest.raises(ValueError, match='x.jpg: not a readable image') as error:
        pictures.picture(tmp_path / 'x.jpg')
    check_line(error)
    if kind != 'bomb':  # a photograph may be that large
        with pytest.raises(ValueError, match='is no whole picture') as error:
            read_picture(tmp_path / 'x.jpg')
        check_line(error)
        with pytest.raises(ValueError, match='not a readable picture') as error:
            own_face((tmp_path / 'x.jpg').read_bytes())
        check_line(error)


def test_blank_pictures_are_said(tmp_path):
    Image.new('L', (9, 9), 255).save(class_tree(tmp_path) / 'train/a/9.png')
    for _ in range(2):  # cold and warm
        with pytest.warns(UserWarning, match='1 of 25 pictures are blank.*9.png'):
            image_folder(tmp_path, size=8)


# --- containers and by name ------------------------------------------------------------------


def test_faceset_takes_arrays(faces):
    one = faces.train[:8]
    other = FaceSet(one.images.numpy(), one.labels.numpy().astype(np.int32), one.votes.numpy(),
                    np.array(one.names), list(one.vocab))
    assert other.fingerprint == one.fingerprint
    assert FaceSet(one.images.numpy(), one.labels.tolist()).names == [str(i) for i in range(8)]
    pixels = one.images.numpy()
    for labels in (one.labels.numpy().astype('>i4'), one.labels.numpy().astype(np.uint16)):
        mirrored = FaceSet(pixels[..., ::-1], labels)
        assert torch.equal(mirrored.images.flip(-1), one.images)
        assert torch.equal(mirrored.labels, one.labels)
    for wrong, said in ((dict(labels=['happy'] * 8), 'labels: found <U5, expected numbers'),
                        (dict(images=pixels.astype(np.uint16)), 'images: torch.uint16 of shape')):
        with pytest.raises(ValueError, match=said):
            FaceSet(**dict(images=pixels, labels=[0] * 8) | wrong)


def test_faceset_is_a_data_set(faces):
    x, y = faces.train[-1]
    assert torch.equal((x * 255).byte(), faces.train.images[-1]) and y == faces.train.labels[-1]
    loader = torch.utils.data.DataLoader(faces.train, batch_size=50, num_workers=1)
    batches = list(loader)
    assert torch.equal(torch.cat([y for _, y in batches]), faces.train.labels)
    expected = faces.train.images.float() / 255
    assert torch.equal(torch.cat([x for x, _ in batches]), expected)
    subset = torch.utils.data.Subset(faces.train, [3, 1])
    assert [y for _, y in subset] == faces.train.labels[[3, 1]].tolist()


def test_empty_splits_are_refused(faces):
    with pytest.raises(ValueError, match='an empty split .train 0'):
        replace(faces, train=faces.train[:0])
    with pytest.raises(ValueError, match='an empty split'):
        Faces(faces.train, faces.valid, faces.test[:0], 'x')
    copies = replace(faces, train=faces.test, valid=None)
    with pytest.raises(ValueError, match='an empty split'):
        protocol(copies, 'dedup')


def test_by_name(demo, faces):
    known = {'ferplus', 'fer2013', 'rafdb', 'affectnet', 'image_folder', 'synthetic'}
    assert known <= set(parts('data'))
    assert load('ferplus', demo, votes='label').fingerprint == faces.fingerprint
    assert parts('data')['ferplus'].uses == ('votes',)
    for wrong, said in ((dict(name='ferplsu'), "did you mean 'ferplus'"),
                        (dict(name='ferplus', vote='new'), "'vote' is.*did you mean 'votes'"),
                        (dict(name='ferplus', votes='nwe'), "did you mean 'new'")):
        with pytest.raises(ValueError, match=said) as error:
            load(path=demo, **wrong)
        check_line(error)
    assert set(parts('protocol')) == {'clean', 'literature', 'poster', 'authors', 'dedup'}


def test_hub_gives_all_names():
    old = ('FERPLUS VOTES RAFDB AFFECTNET majority vote_entropy fleiss_kappa show_faces FaceSet '
           'Faces ferplus rafdb affectnet image_folder synthetic protocol duplicates audit FaceDL '
           'face_dls').split()
    assert set(old) <= set(data.__all__) and all(hasattr(data, name) for name in data.__all__)


def test_files_load_light():
    "No fastai for those who only read files"
    code = ('import sys, fer_nr.files, fer_nr.registry\n'
            'print([m for m in ("fastai", "IPython", "matplotlib", "nbdev") if m in sys.modules])')
    assert fresh(code) == ['[]']


# --- loaders ---------------------------------------------------------------------------------


def test_two_ranks_share_an_epoch(faces):
    "fastai.distributed deals our batches out"
    dl = face_dls(faces, bs=16, device='cpu').valid.new(bs=16)

    class Two(DistributedDL):
        def _broadcast(self, t, rank):
            return list(t)

    ranks = [torch.cat([y for _, y in Two(dl, rank=rank, world_size=2)]) for rank in (0, 1)]
    n = len(faces.valid)
    assert torch.equal(torch.cat(ranks)[:n], faces.valid.labels) and len(ranks[0]) == len(ranks[1])


def test_order_survives_a_stop(faces):
    "Three epochs, and the same stopped in the second one and gone on with in another loader"
    def fresh_loader():
        return face_dls(faces, bs=16, device='cpu', seed=5).train
    whole = fresh_loader()
    want = [torch.cat([y for _, y in whole]) for _ in range(3)]
    stopped = fresh_loader()
    got = [torch.cat([y for _, y in stopped])]
    batches = iter(stopped)
    part = [next(batches)[1] for _ in range(4)]
    batches.close()
    assert (stopped.epoch, stopped.skip) == (1, 0)  # not complete
    again = fresh_loader()
    again.epoch, again.skip = 1, 4
    got.append(torch.cat(part + [y for _, y in again]))
    got.append(torch.cat([y for _, y in again]))
    assert all(map(torch.equal, want, got))


def test_no_python_per_image(faces, monkeypatch):
    "A batch is one indexing of the images"
    dl = face_dls(faces, bs=32, device='cpu').train
    calls = []
    batch = type(dl).batch

    def counted(self, positions):
        calls.append(len(positions))
        return batch(self, positions)

    monkeypatch.setattr(type(dl), 'batch', counted)
    n = len(list(dl))
    assert calls == [32] * n and n == len(faces.train) // 32


def test_small_sets(faces):
    tiny = replace(faces, train=faces.train[:5], valid=None)
    dls = face_dls(tiny, bs=64, device='cpu')
    assert [len(y) for _, y in dls.train] == [5] and len(dls.valid) == 0 and dls.train.bs == 5
    no_votes = replace(tiny, train=replace(tiny.train, votes=None))
    _, y = face_dls(no_votes, target='votes', device='cpu').one_batch()
    assert torch.equal(y.sum(1), torch.ones(5))
