"""Inputs that are damaged at random, with a seed: each is tried in a process of its own, and must give one clear line or the right answer.

An input says what is right: `refuse` (one line), `same` (the answer of the undamaged input) or `any` (one line, or any answer).
What came of it: clear, right, accepted, SILENT (an answer that is not right), TRACEBACK, EXECUTED, HANG.
"""
import csv
import io
import json
import multiprocessing
import os
import pickle
import random
import shutil
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent
VOTES = 'neutral happiness surprise sadness anger disgust fear contempt unknown NF'.split()


def write_fer2013(folder, rng, n=30):
    "Kaggle's and Microsoft's csv files with random pixels"
    folder.mkdir(parents=True, exist_ok=True)
    pixels, votes = io.StringIO(), io.StringIO()
    a, b = csv.writer(pixels, lineterminator='\n'), csv.writer(votes, lineterminator='\n')
    a.writerow(['emotion', 'pixels', 'Usage'])
    b.writerow(['Usage', 'Image name', *VOTES])
    for i in range(n):
        usage = 'Training' if i < .6*n else 'PublicTest' if i < .8*n else 'PrivateTest'
        a.writerow([i % 7, ' '.join(str(rng.randrange(256)) for _ in range(48*48)), usage])
        b.writerow([usage, f'fer{i:07}.png', *[10 if k == i % 8 else 0 for k in range(10)]])
    (folder/'fer2013.csv').write_text(pixels.getvalue())
    (folder/'fer2013new.csv').write_text(votes.getvalue())
    return folder


def write_pictures(folder, rng, classes=('anger', 'happiness', 'neutral'), n=5):
    "Class folders of small pictures below train/ and test/"
    for split in ('train', 'test'):
        for name in classes:
            (folder/split/name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                noise = np.frombuffer(rng.randbytes(48*48), np.uint8).reshape(48, 48)
                Image.fromarray(noise).save(folder/split/name/f'{i}.png')
    return folder


def content(faces):
    return faces.fingerprint


def load_csv(folder):
    from fer_nr.data import ferplus
    return content(ferplus(folder, votes='new'))


def load_folders(folder):
    from fer_nr.data import image_folder
    return content(image_folder(folder))


def replace_row(path, rng, change):
    "Change one random line after the header"
    lines = path.read_text().splitlines(True)
    k = rng.randrange(1, len(lines))
    lines[k] = change(lines[k])
    path.write_text(''.join(lines))


def csv_cases(folder, rng):
    "(name, what is right, function that damages the folder)"
    a, b = folder/'fer2013.csv', folder/'fer2013new.csv'

    def in_line(path, old, new):
        return lambda: replace_row(path, rng, lambda line: line.replace(old, new, 1))

    def pixel(value):
        return lambda: replace_row(a, rng, lambda line: line.replace(line.split(',')[1].split()[0], value, 1))

    def vote(value):
        return lambda: replace_row(b, rng, lambda line: line.replace(',10,', f',{value},', 1).replace(',10\n', f',{value}\n'))

    def cut(path):
        return lambda: path.write_bytes(path.read_bytes()[:rng.randrange(1, path.stat().st_size - 2)])

    def bytes_of(path, make):
        return lambda: path.write_bytes(make(path.read_bytes()))

    def flip(path):
        def damage():
            data = bytearray(path.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
        return damage
    cases = [('pixel', 'refuse', pixel(v)) for v in ('256', '-1', '4294967297', '1e3', '1.5', 'x', 'nan', '0x10')]
    cases += [('vote', 'refuse', vote(v)) for v in ('-1', '1e30', 'nan', 'x', '2.5', 'inf', '')]
    cases += [('usage', 'refuse', in_line(a, ',T', ',Z')), ('missing pixel', 'refuse', in_line(a, ' ', ',')),
              ('cut', 'refuse', cut(a)), ('cut', 'refuse', cut(b)), ('empty', 'refuse', lambda: a.write_text('')),
              ('empty', 'refuse', lambda: b.write_text('')), ('no file', 'refuse', b.unlink),
              ('nul', 'refuse', bytes_of(b, lambda d: d + b'\0\0\0')),
              ('folder', 'refuse', lambda: (b.unlink(), b.mkdir())),
              ('fifo', 'refuse', lambda: (b.unlink(), os.mkfifo(b))),
              ('BOM', 'same', bytes_of(b, lambda d: b'\xef\xbb\xbf' + d)),
              ('BOM', 'same', bytes_of(a, lambda d: b'\xef\xbb\xbf' + d)),
              ('CRLF', 'same', bytes_of(a, lambda d: d.replace(b'\n', b'\r\n'))),
              ('CRLF', 'same', bytes_of(b, lambda d: d.replace(b'\n', b'\r\n'))),
              ('no last line end', 'same', bytes_of(b, lambda d: d.rstrip(b'\n'))),
              ('row lost', 'refuse', bytes_of(b, lambda d: d[:d.rstrip().rfind(b'\n')+1])),
              ('flipped bit', 'any', flip(a)), ('flipped bit', 'any', flip(b))]
    return cases


def png_bomb():
    "A PNG that says it is 60,000 pixels wide and high"
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    header = struct.pack('>IIBBBBB', 60000, 60000, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0'*1000)) + chunk(b'IEND', b'')


def picture_cases(folder, rng):
    pictures = sorted(folder.rglob('*.png'))

    def one():
        return rng.choice(pictures)

    def write(data):
        return lambda: one().write_bytes(data)

    def cut():
        path = one()
        path.write_bytes(path.read_bytes()[:rng.randrange(8, path.stat().st_size - 12)])

    def flip():
        path = one()
        data = bytearray(path.read_bytes())
        data[rng.randrange(8, len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)

    def instead(make):
        def damage():
            path = one()
            path.unlink()
            make(path)
        return damage

    def as_mode(mode):
        def damage():
            path = one()
            with Image.open(path) as picture:
                picture.load()
            picture.convert(mode).save(path)
        return damage

    def deep():
        path = one()
        with Image.open(path) as picture:
            values = np.asarray(picture)
        Image.fromarray(values.astype(np.uint16)*257).save(path)
    postscript = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n(/tmp/executed) (w) file closefile\nshowpage\n'
    return [('empty', 'refuse', write(b'')), ('text', 'refuse', write(b'hello')), ('bomb', 'refuse', write(png_bomb())),
            ('postscript', 'refuse', write(postscript)), ('cut', 'refuse', cut), ('flipped bit', 'any', flip),
            ('fifo', 'refuse', instead(os.mkfifo)), ('device', 'refuse', instead(lambda p: p.symlink_to('/dev/zero'))),
            ('folder', 'any', instead(Path.mkdir)), ('dangling link', 'refuse', instead(lambda p: p.symlink_to('/nowhere'))),
            ('RGBA', 'same', as_mode('RGBA')), ('LA', 'same', as_mode('LA')), ('RGB', 'same', as_mode('RGB')),
            ('16 bit', 'same', deep), ('hidden file', 'same', lambda: (one().parent/'.DS_Store').write_bytes(b'x')),
            ('Thumbs.db', 'same', lambda: (one().parent/'Thumbs.db').write_bytes(b'x')),
            ('empty class', 'refuse', lambda: [p.unlink() for p in (folder/'train'/'anger').iterdir()]),
            ('no test', 'any', lambda: [p.unlink() for p in (folder/'test').rglob('*.png')])]


def load_parameters(path):
    from fer_nr.ablation import read_params, spec_from
    return spec_from(read_params([str(path)])).id


def yaml_cases(path, rng):
    odd = ['', 'x', '1e400', '-1', '0', 'nan', '.inf', 'null', '[]', '{}', '[1, 2]', 'yes', '1.5', '"', "'", '!!python/object/apply:os.system [x]',
           '&a [*a]', '2026-01-01', '0x1F', '1_000', '\t', '%', '@', '`', '*x', '{a:1}', 'a: b', '9'*400]

    def put():
        values = path.read_text().splitlines()
        lines = [k for k, line in enumerate(values) if ': ' in line and not line.startswith('#')]
        k = rng.choice(lines)
        values[k] = values[k].split(': ')[0] + ': ' + rng.choice(odd)
        path.write_text('\n'.join(values) + '\n')

    def flip():
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)

    def bomb():
        text = 'a0: &a0 [x, x, x, x, x, x, x, x, x]\n'
        text += ''.join(f'a{k}: &a{k} [{", ".join([f"*a{k-1}"]*9)}]\n' for k in range(1, 12))
        path.write_text(text)
    cases = [('odd value', 'any', put) for _ in range(12)] + [('flipped bit', 'any', flip) for _ in range(4)]
    cases += [('twice', 'refuse', lambda: path.write_text(path.read_text() + 'seed: 1\nseed: 2\n')), ('bomb', 'refuse', bomb),
              ('deep', 'refuse', lambda: path.write_text('a: ' + '['*5000)), ('list', 'refuse', lambda: path.write_text('- a\n')),
              ('empty', 'any', lambda: path.write_text('')), ('binary', 'refuse', lambda: path.write_bytes(rng.randbytes(300))),
              ('unknown', 'refuse', lambda: path.write_text('epoch: 3\n'))]
    return cases


def load_weights(path):
    from fer_nr.backbone import load_model
    model = load_model(path)
    return hash_of(model.state_dict())


def hash_of(tensors):
    return zlib.crc32(b''.join(v.numpy().tobytes() for v in tensors.values()))


class Executes:
    "Unpickling this would write a file"
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def weight_cases(path, rng):
    def flip():
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)

    def tensors(change):
        from safetensors import safe_open
        from safetensors.torch import load_file
        with safe_open(path, 'pt') as file:
            meta = file.metadata()
        values = load_file(path)
        name = rng.choice([k for k, v in values.items() if v.is_floating_point() and v.numel() > 1])
        values[name] = change(values[name])
        save_file(values, path, meta)
    return [*[('flipped bit', 'refuse', flip) for _ in range(8)],
            ('cut', 'refuse', lambda: path.write_bytes(path.read_bytes()[:rng.randrange(1, path.stat().st_size)])),
            ('empty', 'refuse', lambda: path.write_bytes(b'')),
            ('NaN', 'refuse', lambda: tensors(lambda v: v*float('nan'))),
            ('int8', 'refuse', lambda: tensors(lambda v: v.to(torch.int8))),
            ('shape', 'refuse', lambda: tensors(lambda v: v.flatten()[:-1].clone())),
            ('no tensors', 'refuse', lambda: save_file({}, path)),
            ('foreign', 'refuse', lambda: save_file({'x': torch.zeros(3)}, path)),
            ('pickle', 'refuse', lambda: path.write_bytes(pickle.dumps(Executes(path.parent/'executed'))))]


def load_records(folder):
    import warnings
    from fer_nr.ablation import load_table, records, table
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = records(folder)
        for name in sorted((ROOT/'nbs/experiments/params').rglob('table2*.yaml')):
            table(load_table(name), found)
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
    return [*[('changed', 'any', change) for _ in range(12)], *[('lost field', 'any', lose) for _ in range(6)],
            ('cut', 'any', lambda: path.write_bytes(path.read_bytes()[:rng.randrange(1, path.stat().st_size - 2)])),
            ('deep', 'any', lambda: path.write_text('['*100000)), ('list', 'any', lambda: path.write_text('[1]'))]


def make_learner(folder):
    "A tiny training with checkpoints in `folder`"
    from fer_nr.ablation import RunSpec, build_learner, load_faces
    spec = RunSpec(data='synthetic', limit=100, arch='vit_tiny_patch16_224', arch_args=dict(depth=1), img_size=32, bs=16, epochs=1, augment='none',
                   head='linear')
    return build_learner(spec, load_faces(spec), folder)


def train(folder):
    learn = make_learner(folder)
    learn.fit_recipe(1)
    return hash_of(learn.model.state_dict())


def checkpoint_cases(folder, rng):
    def flip(name):
        def damage():
            path = folder/name
            data = bytearray(path.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
        return damage

    def cut(name):
        return lambda: (folder/name).write_bytes((folder/name).read_bytes()[:-rng.randrange(1, 5000)])
    files = ('checkpoint.safetensors', 'best.safetensors')
    return [*[('flipped bit', 'refuse', flip(name)) for name in files for _ in range(6)],
            *[('cut', 'refuse', cut(name)) for name in files],
            ('best lost', 'refuse', (folder/'best.safetensors').unlink),
            ('odd progress', 'same', lambda: (folder/'progress.json').write_text('['))]


def cache_cases(folder, rng):
    def damage(change):
        def act():
            for path in folder.rglob('.fer_nr/*'):
                if path.is_file():
                    path.write_bytes(change(bytearray(path.read_bytes())))
        return act

    def flipped(data):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return data
    return [*[('flipped bit', 'same', damage(flipped)) for _ in range(5)], ('cut', 'same', damage(lambda data: data[:len(data)//2])),
            ('empty', 'same', damage(lambda data: b''))]


def write_weights(folder, rng):
    from fer_nr.backbone import fer_model, save_weights
    from fer_nr.resizer import NeuralResizer
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    resizer = NeuralResizer('bilinear', down='none', up_size=32, size=32)
    save_weights(fer_model('vit_tiny_patch16_224', resizer, 8, depth=1, head='linear'), folder/'w.safetensors')
    return folder/'w.safetensors'


def write_records(folder, rng):
    folder.mkdir(parents=True)
    source = sorted((ROOT/'results').glob('*.json'))[0]
    (folder/source.name).write_bytes(source.read_bytes())
    return folder


def write_yaml(folder, rng):
    folder.mkdir(parents=True)
    (folder/'demo.yaml').write_bytes((ROOT/'nbs/experiments/params/demo.yaml').read_bytes())
    return folder/'demo.yaml'


def write_checkpoints(folder, rng):
    train(folder)
    return folder


def write_cached(folder, rng):
    load_csv(write_fer2013(folder, rng))
    return folder


KINDS = {  # kind: (make the undamaged input, its damages, read it)
    'csv': (write_fer2013, csv_cases, load_csv), 'pictures': (write_pictures, picture_cases, load_folders),
    'YAML': (write_yaml, yaml_cases, load_parameters), 'weights': (write_weights, weight_cases, load_weights),
    'records': (write_records, record_cases, load_records),
    'checkpoints': (write_checkpoints, checkpoint_cases, train), 'cache': (write_cached, cache_cases, load_csv)}


def read_in_child(read, path, results):
    "In a process of its own: what reading gives"
    torch.set_num_threads(1)
    os.environ['HF_HUB_OFFLINE'] = '1'
    null = open(os.devnull, 'w')
    os.dup2(null.fileno(), 1)
    os.dup2(null.fileno(), 2)
    try:
        results.put(('answer', read(path)))
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        results.put(('line' if '\n' not in str(error).strip() else 'traceback', f'{type(error).__name__}: {error}'))
    except BaseException as error:
        results.put(('traceback', f'{type(error).__name__}: {error}'))


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
    return results.get() if not results.empty() else ('traceback', f'the process ended with {child.exitcode}')


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


def inputs(n, seed, folder, only=None, say=print):
    "Try `n` damaged inputs; returns counts by kind and what came of them"
    import fer_nr.ablation  # noqa: F401  once, before the processes fork
    import fer_nr.backbone  # noqa: F401
    import fer_nr.data  # noqa: F401
    torch.set_num_threads(1)
    counts, number = Counter(), 0
    kinds = {kind: parts for kind, parts in KINDS.items() if only is None or kind in only}
    expected = {}
    while number < n:
        for kind, (make, damages, read) in kinds.items():
            names = None
            k = 0
            while names is None or k < len(names):
                work = folder/f'{number}-{kind}'
                path = make(work, random.Random(f'{seed} {kind}'))
                if kind not in expected:
                    how, expected[kind] = attempt(read, path)
                    assert how == 'answer', (kind, expected[kind])
                cases = damages(path, random.Random(f'{seed} {number}'))
                names = [name for name, _, _ in cases]
                name, right, damage = cases[k]
                damage()
                came = attempt(read, path)
                verdict = judge(right, came, expected[kind])
                if list(work.rglob('executed')) or Path('/tmp/executed').exists():
                    verdict = 'EXECUTED'
                counts[f'{kind}: {verdict}'] += 1
                if verdict.isupper():
                    say(f'{kind}, {name} ({right} is right): {verdict}: {str(came[1])[:300]}', flush=True)
                shutil.rmtree(work, ignore_errors=True)
                number, k = number + 1, k + 1
                if number >= n:
                    return counts
    return counts
