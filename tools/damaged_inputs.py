"""Inputs that are damaged at random, with a seed: each is read in a process of its own.

A case says what is right: `refuse` (one line that says what is wrong), `same` (the answer of the
undamaged input) or `any` (one line, or any answer). What came of it is a word, in capital letters
where it is wrong: clear, right, accepted, SILENT (an answer that is not right), REFUSED (what
should be read), TRACEBACK, EXECUTED, HANG.
"""
import csv
import io
import itertools
import json
import multiprocessing
import os
import pickle
import random
import shutil
import struct
import warnings
import zlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fer_nr.ablation import RunSpec, build_learner, load_faces, load_table, read_params, spec_from
from fer_nr.backbone import fer_model, load_model, save_weights
from fer_nr.data import affectnet, ferplus, image_folder, rafdb
from fer_nr.resizer import NeuralResizer
from fer_nr.results import records, table
from fer_nr.sweep import read_tables, specs_of

ROOT = Path(__file__).parents[1]
VOTES = 'neutral happiness surprise sadness anger disgust fear contempt unknown NF'.split()


class Case(NamedTuple):
    "A damage: its name, what is right afterwards, and what does it"
    name: str
    right: str
    damage: object


# --- ways to damage a file -----------------------------------------------------------------

def with_bytes(path, change):
    "Replace a file's bytes by what `change` makes of them"
    return lambda: path.write_bytes(change(path.read_bytes()))


def flip(path, rng, first=0):
    "Turn over one bit, behind the first bytes"
    def change(content):
        damaged = bytearray(content)
        damaged[rng.randrange(first, len(damaged))] ^= 1 << rng.randrange(8)
        return bytes(damaged)
    return with_bytes(path, change)


def cut(path, rng, first=1, last=2):
    "End a file early"
    return with_bytes(path, lambda content: content[:rng.randrange(first, len(content) - last)])


def in_line(path, rng, change, having=''):
    "Change one random line after the first, among those that have a text in them"
    def damage():
        lines = path.read_text().splitlines(True)
        wanted = [k for k in range(1, len(lines)) if having in lines[k]]
        k = rng.choice(wanted)
        lines[k] = change(lines[k])
        path.write_text(''.join(lines))
    return damage


def instead(path, make):
    "Something else where the file was"
    def damage():
        path.unlink()
        make(path)
    return damage


def as_text(path, encoding):
    "The same text in another encoding"
    return with_bytes(path, lambda content: content.decode().encode(encoding))


def no_file(path):
    "What is no regular file, and would hang who reads it"
    return [Case('fifo', 'refuse', instead(path, os.mkfifo)),
            Case('folder', 'refuse', instead(path, Path.mkdir)),
            Case('device', 'refuse', instead(path, lambda path: path.symlink_to('/dev/zero'))),
            Case('dangling link', 'refuse', instead(path, lambda path: path.symlink_to('gone')))]


def any_text(path, rng):
    "Damages of every text file with a header or not, with lines"
    return [Case('empty', 'refuse', lambda: path.write_text('')),
            Case('gone', 'refuse', path.unlink),
            Case('nul', 'refuse', with_bytes(path, lambda content: content + b'\0\0\0')),
            Case('binary', 'refuse', lambda: path.write_bytes(rng.randbytes(500))),
            Case('BOM', 'same', as_text(path, 'utf-8-sig')),
            Case('UTF-16', 'same', as_text(path, 'utf-16')),
            Case('CRLF', 'same', with_bytes(path, lambda text: text.replace(b'\n', b'\r\n'))),
            Case('no last line end', 'same', with_bytes(path, lambda text: text.rstrip(b'\n'))),
            Case('empty lines', 'same', with_bytes(path, lambda text: text + b'\n\n')),
            Case('flipped bit', 'any', flip(path, rng)),
            *no_file(path)]


# --- FERPlus's csv files -------------------------------------------------------------------

def write_rows(path, rows, delimiter=','):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator='\n', delimiter=delimiter).writerows(rows)
    path.write_text(text.getvalue())


def write_ferplus(folder, rng, n=30):
    "Kaggle's and Microsoft's csv files with random pixels, and Microsoft's label files"
    pixels, votes = [['emotion', 'pixels', 'Usage']], [['Usage', 'Image name', *VOTES]]
    lists = dict(Training=[], PublicTest=[], PrivateTest=[])
    for i in range(n):
        usage = list(lists)[(i >= .6*n) + (i >= .8*n)]
        values = ' '.join(str(rng.randrange(256)) for _ in range(48*48))
        given = [10 if k == i % 8 else 0 for k in range(10)]
        name = f'fer{i:07}.png'
        pixels.append([i % 7, values, usage])
        votes.append([usage, name, *given])
        lists[usage].append([name, '(0, 0, 48, 48)', *given])
    write_rows(folder/'fer2013.csv', pixels)
    write_rows(folder/'fer2013new.csv', votes)
    for split, rows in zip(('Train', 'Valid', 'Test'), lists.values()):
        write_rows(folder/f'FER2013{split}/label.csv', rows)
    return folder


def read_ferplus(folder, votes='new'):
    return ferplus(folder, votes=votes).fingerprint


def pixels_cases(folder, rng):
    path = folder/'fer2013.csv'

    def pixel(value):
        def change(line):
            first = line.split(',')[1].split()[0]
            return line.replace(f',{first} ', f',{value} ', 1)
        return in_line(path, rng, change)
    wrong = ('256', '-1', '4294967297', '1e3', '1.5', 'x', 'nan', '0x10', '٣', '')
    lost_line = with_bytes(path, lambda text: text[:text.rstrip().rfind(b'\n') + 1])
    return [*[Case(f'pixel {value}', 'refuse', pixel(value)) for value in wrong],
            Case('usage', 'refuse', in_line(path, rng, lambda row: row.replace(',T', ',Z'), ',T')),
            Case('comma', 'refuse', in_line(path, rng, lambda row: row.replace(' ', ',', 1))),
            Case('cut', 'refuse', cut(path, rng)), Case('row lost', 'refuse', lost_line),
            Case('row twice', 'refuse', in_line(path, rng, lambda row: row*2)),
            Case('semicolons', 'same', with_bytes(path, lambda text: text.replace(b',', b';'))),
            *any_text(path, rng)]


def votes_cases(folder, rng):
    path = folder/'fer2013new.csv'

    def vote(value):
        return in_line(path, rng, lambda row: row.replace(',10', f',{value}', 1))

    def floats(text):
        return text.replace(b',10', b',10.0').replace(b',0', b',0.0')
    wrong = ('-1', '1e30', 'nan', 'x', '2.5', 'inf', '', 'True', '1,0')
    lost_line = with_bytes(path, lambda text: text[:text.rstrip().rfind(b'\n') + 1])
    return [*[Case(f'vote {value}', 'refuse', vote(value)) for value in wrong],
            Case('no votes', 'any', vote('0')), Case('cut', 'refuse', cut(path, rng)),
            Case('row lost', 'refuse', lost_line), Case('floats', 'same', with_bytes(path, floats)),
            Case('row twice', 'refuse', in_line(path, rng, lambda row: row*2)),
            Case('semicolons', 'same', with_bytes(path, lambda text: text.replace(b',', b';'))),
            Case('column lost', 'refuse', with_bytes(path, lambda t: t.replace(b'fear', b'x', 1))),
            *any_text(path, rng)]


def label_cases(folder, rng):
    path = folder/'FER2013Train'/'label.csv'

    def name(value):
        return in_line(path, rng, lambda row: value + row[row.index(','):])
    wrong = ('../../x.png', '/etc/passwd', '', 'fer0000099.png', 'C:\\x.png', '\\x.png', '..\\x')
    return [*[Case(f'name {value}', 'refuse', name(value)) for value in wrong],
            Case('row twice', 'refuse', in_line(path, rng, lambda row: row*2)),
            Case('cut', 'refuse', cut(path, rng)),
            Case('vote', 'refuse', in_line(path, rng, lambda row: row.replace(',10', ',1e30', 1))),
            Case('tabs', 'any', with_bytes(path, lambda text: text.replace(b',', b'\t'))),
            *any_text(path, rng)]


# --- pictures and lists of pictures --------------------------------------------------------

def write_picture(path, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.frombuffer(rng.randbytes(48*48), np.uint8).reshape(48, 48)
    Image.fromarray(noise).save(path)


def write_pictures(folder, rng, classes=('anger', 'happiness', 'neutral'), n=5):
    "Class folders of small pictures below train/ and test/"
    for split in ('train', 'test'):
        for name in classes:
            for i in range(n):
                write_picture(folder/split/name/f'{i}.png', rng)
    return folder


def read_pictures(folder):
    return image_folder(folder).fingerprint


def png_bomb():
    "A PNG that says it is 60,000 pixels wide and high"
    def chunk(kind, data):
        check = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + check
    header = struct.pack('>IIBBBBB', 60000, 60000, 8, 0, 0, 0, 0)
    chunks = dict(IHDR=header, IDAT=zlib.compress(b'\0'*1000), IEND=b'')
    parts = [chunk(kind.encode(), data) for kind, data in chunks.items()]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


POSTSCRIPT = (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n'
              b'(/tmp/executed) (w) file closefile\nshowpage\n')


def as_mode(path, mode):
    "The same picture in another mode of PIL's"
    def damage():
        with Image.open(path) as picture:
            picture.load()
        picture.convert(mode).save(path)
    return damage


def deeper(path):
    "The same picture with 16 bits a pixel"
    def damage():
        with Image.open(path) as picture:
            values = np.asarray(picture)
        Image.fromarray(values.astype(np.uint16)*257).save(path)
    return damage


def picture_cases(folder, rng):
    path = rng.choice(sorted(folder.rglob('*.png')))
    bad = dict(empty=b'', text=b'hello', bomb=png_bomb(), postscript=POSTSCRIPT,
               html=b'<!DOCTYPE html><script>alert(1)</script>')
    beside = ('.DS_Store', 'Thumbs.db', 'face.png:Zone.Identifier', '._face.png', 'notes.txt')
    anger = list((folder/'train'/'anger').iterdir())
    test = list((folder/'test').rglob('*.png'))
    return [*[Case(name, 'refuse', partial(path.write_bytes, content))
              for name, content in bad.items()],
            Case('cut', 'refuse', cut(path, rng, 8, 12)),
            Case('flipped bit', 'any', flip(path, rng)),
            *[Case(mode, 'same', as_mode(path, mode)) for mode in ('RGBA', 'LA', 'RGB', 'P')],
            Case('16 bit', 'same', deeper(path)),
            *[Case(f'beside it {name}', 'same', partial((path.parent/name).write_bytes, b'x'))
              for name in beside],
            Case('name with a line end', 'refuse', lambda: path.rename(path.with_name('a\nb.png'))),
            Case('empty class', 'refuse', lambda: [picture.unlink() for picture in anger]),
            Case('no test', 'any', lambda: [picture.unlink() for picture in test]),
            *[case._replace(right='any' if case.name == 'folder' else 'refuse')
              for case in no_file(path)]]


def write_rafdb(folder, rng, n=14):
    "RAF-DB's list and its aligned pictures"
    lines = []
    for split in ('train', 'test'):
        for i in range(n):
            lines.append(f'{split}_{i:05}.jpg {i % 7 + 1}\n')
            write_picture(folder/f'Image/aligned/{split}_{i:05}_aligned.jpg', rng)
    (folder/'EmoLabel').mkdir()
    (folder/'EmoLabel/list_patition_label.txt').write_text(''.join(lines))
    return folder


def read_rafdb(folder):
    return rafdb(folder, size=48).fingerprint


def rafdb_cases(folder, rng):
    path = folder/'EmoLabel'/'list_patition_label.txt'

    def label(value):
        return in_line(path, rng, lambda row: row.split(' ')[0] + f' {value}\n')
    wrong = ('0', '8', '-1', '1.5', 'x', '', 'nan', '٣', '1 1 1 1')
    return [*[Case(f'label {value}', 'refuse', label(value)) for value in wrong],
            Case('row twice', 'refuse', in_line(path, rng, lambda row: row*2)),
            Case('picture lost', 'refuse', next((folder/'Image/aligned').iterdir()).unlink),
            Case('commas', 'same', with_bytes(path, lambda text: text.replace(b' ', b','))),
            *any_text(path, rng)]


def write_affectnet(folder, rng, n=16):
    "AffectNet's lists and pictures"
    head = ['subDirectory_filePath', 'face_x', 'face_y', 'face_width', 'face_height', 'expression']
    for split in ('training', 'validation'):
        rows = [[f'{split}/{i}.png', 0, 0, 48, 48, i % 8] for i in range(n)]
        write_rows(folder/f'{split}.csv', [head, *rows])
        for name, *_ in rows:
            write_picture(folder/'Manually_Annotated_Images'/name, rng)
    return folder


def read_affectnet(folder):
    return affectnet(folder, size=48).fingerprint


def affectnet_cases(folder, rng):
    path = folder/'training.csv'

    def cell(value, k):
        def change(row):
            cells = row.rstrip('\n').split(',')
            cells[k] = value
            return ','.join(cells) + '\n'
        return in_line(path, rng, change)
    wrong = ('11', '-1', '2.7', 'x', '', 'nan', '1e9')
    boxes = ('x', '', 'nan', '1e30', '900')
    names = ('../x.png', '/etc/passwd', '', 'training\\..\\..\\x.png', 'gone.png')
    return [*[Case(f'class {value}', 'refuse', cell(value, -1)) for value in wrong],
            *[Case(f'box {value}', 'refuse', cell(value, 1)) for value in boxes],
            *[Case(f'name {value}', 'refuse', cell(value, 0)) for value in names],
            Case('row twice', 'same', in_line(path, rng, lambda row: row*2)),
            Case('tabs', 'same', with_bytes(path, lambda text: text.replace(b',', b'\t'))),
            *any_text(path, rng)]


# --- parameters and tables -----------------------------------------------------------------

def write_parameters(path, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((ROOT/'nbs/experiments/params/demo.yaml').read_bytes())


def read_parameters(path):
    return spec_from(read_params([str(path)])).id


ODD = ['', 'x', '1e400', '-1', '0', 'nan', '.inf', 'null', '[]', '{}', '[1, 2]', 'yes', '1.5', '"',
       "'", '!!python/object/apply:os.system [x]', '&a [*a]', '2026-01-01', '0x1F', '1_000', '\t',
       '%', '@', '`', '*x', '{a:1}', 'a: b', '9'*400, '٣', '1,5', '0b1', '-0', 'TRUE', '~']


def yaml_bomb():
    "Lists of lists of lists, of which each line multiplies the number by nine"
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x]']
    for k in range(1, 12):
        lines.append(f'a{k}: &a{k} [{", ".join([f"*a{k-1}"]*9)}]')
    return '\n'.join(lines) + '\n'


def yaml_cases(path, rng, odd=12):
    def put():
        lines = path.read_text().splitlines()
        wanted = [k for k, line in enumerate(lines) if ': ' in line and line.lstrip()[0] != '#']
        k = rng.choice(wanted)
        lines[k] = lines[k].split(': ')[0] + ': ' + rng.choice(ODD)
        path.write_text('\n'.join(lines) + '\n')

    def more(text):
        return lambda: path.write_text(path.read_text() + text)
    texts = dict(bomb=yaml_bomb(), deep='a: ' + '['*5000, list='- a\n', unknown='epoch: 3\n',
                 alias='a: *b\n', tabs='a:\n\tb: 1\n', code='!!python/name:os.system\n')
    return [*[Case('odd value', 'any', put) for _ in range(odd)],
            *[Case('flipped bit', 'any', flip(path, rng)) for _ in range(4)],
            Case('twice', 'refuse', more('seed: 1\nseed: 2\n')),
            *[Case(name, 'refuse', partial(path.write_text, text)) for name, text in texts.items()],
            Case('binary', 'refuse', lambda: path.write_bytes(rng.randbytes(300))),
            Case('BOM', 'same', as_text(path, 'utf-8-sig')),
            Case('UTF-16', 'same', as_text(path, 'utf-16')), *no_file(path)]


TABLE = """title: A table
base:
  data: synthetic
  arch: vit_tiny_patch16_224
  img_size: 32
rows:
  - name: one
    spec: {loss: ce}
    paper: 50.0
  - name: two
    baseline: one
    spec:
      loss: fpdls
      alpha: 0.8
"""


def write_table(path, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TABLE)


def read_sweep(path):
    table(load_table(path), [])
    return [spec.id for spec in specs_of(read_tables([str(path)]), 2)]


# --- weights, records, checkpoints, caches -------------------------------------------------

def hash_of(tensors):
    return zlib.crc32(b''.join(tensor.numpy().tobytes() for tensor in tensors.values()))


def write_weights(path, rng):
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    resizer = NeuralResizer('bilinear', down='none', up_size=32, size=32)
    model = fer_model('vit_tiny_patch16_224', resizer, 8, depth=1, embed_dim=48, num_heads=3,
                      head='linear')
    save_weights(model, path)


def read_model(path):
    return hash_of(load_model(path).state_dict())


class Executes:
    "Unpickling this would write a file"
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def weight_cases(path, rng):
    def tensors(change):
        def damage():
            with safe_open(path, 'pt') as file:
                meta = file.metadata()
            values = load_file(path)
            floats = [name for name, value in values.items()
                      if value.is_floating_point() and value.numel() > 1]
            name = rng.choice(floats)
            values[name] = change(values[name])
            save_file(values, path, meta)
        return damage
    changes = dict(nan=lambda value: value*float('nan'), int8=lambda value: value.to(torch.int8),
                   bool=lambda value: value > 0, shape=lambda value: value.flatten()[:-1].clone(),
                   other=lambda value: value + 1)
    executes = Executes(path.parent/'executed')
    return [*[Case('flipped bit', 'refuse', flip(path, rng)) for _ in range(8)],
            Case('cut', 'refuse', cut(path, rng)),
            Case('empty', 'refuse', partial(path.write_bytes, b'')),
            *[Case(name, 'refuse', tensors(change)) for name, change in changes.items()],
            Case('no tensors', 'refuse', lambda: save_file({}, path)),
            Case('foreign', 'refuse', lambda: save_file(dict(x=torch.zeros(3)), path)),
            Case('pickle', 'refuse', partial(path.write_bytes, pickle.dumps(executes))),
            Case('torch.save', 'refuse', lambda: torch.save(executes, path)),
            *no_file(path)]


def write_record(folder, rng):
    folder.mkdir(parents=True)
    shutil.copy(sorted((ROOT/'results').glob('*.json'))[0], folder)


def read_records(folder):
    "What the tables of the paper make of a folder of records"
    found = records(folder)
    for path in sorted((ROOT/'nbs/experiments/params').rglob('table2*.yaml')):
        table(load_table(path), found)
    return len(found)


def record_cases(folder, rng):
    path = next(folder.glob('*.json'))

    def change():
        record = json.loads(path.read_text())
        where = record
        while True:
            key = rng.choice(list(where)) if isinstance(where, dict) else rng.randrange(len(where))
            if isinstance(where[key], (dict, list)) and where[key] and rng.random() < .6:
                where = where[key]
                continue
            where[key] = rng.choice([None, '', 'x', -1, 10**30, [], {}, [None], True, 0, 'NaN'])
            break
        path.write_text(json.dumps(record))

    def lose():
        record = json.loads(path.read_text())
        del record[rng.choice(list(record))]
        path.write_text(json.dumps(record))
    return [*[Case('changed', 'any', change) for _ in range(12)],
            *[Case('lost field', 'any', lose) for _ in range(6)],
            Case('cut', 'any', cut(path, rng)),
            Case('deep', 'any', lambda: path.write_text('['*100_000)),
            Case('list', 'any', lambda: path.write_text('[1]')),
            *[case._replace(right='any') for case in no_file(path)]]


def train(folder):
    "Weights of a tiny training, with checkpoints in `folder`"
    spec = RunSpec(data='synthetic', limit=100, arch='vit_tiny_patch16_224', img_size=32, bs=16,
                   arch_args=dict(depth=1, embed_dim=48, num_heads=3), head='linear', epochs=1,
                   augment='none')
    learn = build_learner(spec, load_faces(spec), folder)
    learn.fit_recipe(1)
    return hash_of(learn.model.state_dict())


def write_checkpoints(folder, rng):
    train(folder)


def checkpoint_cases(folder, rng):
    files = [folder/'checkpoint.safetensors', folder/'best.safetensors']
    weights = load_file(files[0])
    return [*[Case('flipped bit', 'refuse', flip(path, rng)) for path in files for _ in range(6)],
            *[Case('cut', 'refuse', cut(path, rng)) for path in files],
            Case('best lost', 'refuse', files[1].unlink),
            Case('no digest', 'refuse', lambda: save_file(weights, files[0])),
            Case('odd progress', 'same', lambda: (folder/'progress.json').write_text('['))]


def write_cached(folder, rng):
    write_ferplus(folder, rng)
    read_ferplus(folder)


def cache_cases(folder, rng):
    files = [path for path in folder.rglob('.fer_nr/*') if path.is_file()]
    cases = []
    for path in files:
        cases += [Case('flipped bit', 'same', flip(path, rng)) for _ in range(3)]
        cases += [Case('cut', 'same', cut(path, rng)), Case('gone', 'same', path.unlink),
                  Case('empty', 'same', partial(path.write_bytes, b''))]
    return cases


class Kind(NamedTuple):
    "How an undamaged input is written, damaged and read"
    write: object
    cases: object
    read: object
    file: str = ''  # its name, where it is one file and no folder


KINDS = {
    'fer2013.csv': Kind(write_ferplus, pixels_cases, read_ferplus),
    'fer2013new.csv': Kind(write_ferplus, votes_cases, read_ferplus),
    'label.csv': Kind(write_ferplus, label_cases, partial(read_ferplus, votes='label')),
    'pictures': Kind(write_pictures, picture_cases, read_pictures),
    'rafdb': Kind(write_rafdb, rafdb_cases, read_rafdb),
    'affectnet': Kind(write_affectnet, affectnet_cases, read_affectnet),
    'parameters': Kind(write_parameters, yaml_cases, read_parameters, 'demo.yaml'),
    'tables': Kind(write_table, yaml_cases, read_sweep, 'table.yaml'),
    'weights': Kind(write_weights, weight_cases, read_model, 'w.safetensors'),
    'records': Kind(write_record, record_cases, read_records),
    'checkpoints': Kind(write_checkpoints, checkpoint_cases, train),
    'cache': Kind(write_cached, cache_cases, read_ferplus)}


# --- reading in a process of its own -------------------------------------------------------

CLEAR = ValueError, OSError, RuntimeError, FloatingPointError  # what commands end in one line


def read_in_child(read, path, results):
    "What reading gives, or how it fails"
    torch.set_num_threads(1)
    os.environ['HF_HUB_OFFLINE'] = '1'
    null = open(os.devnull, 'w')
    os.dup2(null.fileno(), 1)
    os.dup2(null.fileno(), 2)
    warnings.simplefilter('ignore')
    try:
        results.put(('answer', read(path)))
    except BaseException as error:
        message = str(error).split(':\n\t')[-1].strip()  # fastai names the callback before it
        clear = isinstance(error, CLEAR) and message and message.isprintable()
        results.put(('line' if clear else 'traceback', f'{type(error).__name__}: {message}'))


def attempt(read, path, seconds=120):
    "('answer', value), ('line', message), ('traceback', message) or ('hang', '')"
    context = multiprocessing.get_context('fork')
    results = context.SimpleQueue()
    child = context.Process(target=read_in_child, args=(read, path, results))
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
        child.join()
        return 'hang', ''
    if results.empty():
        return 'traceback', f'the process ended with {child.exitcode}'
    return results.get()


def judge(right, came, expected):
    "What came of an input, in a word"
    how, what = came
    if how in ('hang', 'traceback'):
        return how.upper()
    if how == 'line':
        return 'clear' if right != 'same' else 'REFUSED'
    if right == 'any':
        return 'accepted'
    return 'right' if right == 'same' and what == expected else 'SILENT'


def was_executed(work):
    return list(work.rglob('executed')) or Path('/tmp/executed').exists()


def whole_input(name, kind, seed, folder):
    "(where an undamaged input lies, what reading it gives)"
    place = folder/name
    kind.write(place/kind.file, random.Random(f'{seed} {name}'))
    copy = folder/f'{name} read'
    shutil.copytree(place, copy)
    how, expected = attempt(kind.read, copy/kind.file)
    assert how == 'answer', (name, expected)
    return place, expected


def try_one(kind, place, work, k, seed, expected):
    "(case `k`, what came of it, in a word) of a copy of an undamaged input"
    shutil.copytree(place, work)
    path = work/kind.file
    case = kind.cases(path, random.Random(seed))[k]
    case.damage()
    came = attempt(kind.read, path)
    verdict = 'EXECUTED' if was_executed(work) else judge(case.right, came, expected)
    shutil.rmtree(work, ignore_errors=True)
    return case, came[1], verdict


def inputs(n, seed, folder, say=print, only=()):
    "Try `n` damaged inputs, of all kinds in turn or `only` of some; counts what came of them"
    torch.set_num_threads(1)
    counts = Counter()
    whole = {name: whole_input(name, KINDS[name], seed, folder) for name in only or KINDS}
    for tried, (name, k) in zip(range(n), in_turn(whole, seed)):
        place, expected = whole[name]
        case, came, verdict = try_one(KINDS[name], place, folder/f'try{tried}', k,
                                      f'{seed} {tried}', expected)
        counts[f'{name}: {verdict}'] += 1
        if verdict.isupper():
            say(f'{name}, {case.name} ({case.right}): {verdict}: {str(came)[:300]}')
    return counts


def in_turn(whole, seed):
    "(kind, number of its case) in a random order, again and again"
    numbers = []
    for name, (place, _) in whole.items():
        path = place/KINDS[name].file
        numbers += [(name, k) for k in range(len(KINDS[name].cases(path, random.Random(0))))]
    random.Random(seed).shuffle(numbers)
    return itertools.cycle(numbers)
