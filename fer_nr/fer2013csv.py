"""Kaggle's fer2013.csv, however it was saved again: a label, 2,304 pixels as text, a split."""
import csv
import gzip
import io
import re
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .files import blank_images, new_images, printable, regular_file, text_encoding
from .folders import split_of
from .csv_tables import find_columns

__all__ = ['parse_pixels', 'read_fer2013', 'write_fer2013']


def parse_pixels(text: str, where: str) -> np.ndarray:
    "The pixels of a row as uint8 (2304,); raises `ValueError`"
    try:
        values = np.fromstring(text, np.int64, sep=' ')
    except (ValueError, DeprecationWarning):
        values = np.zeros(0)
    n = values.size or len(text.split())
    if n != 48*48:
        raise ValueError(f'{where}: {n:,} pixels, expected 2,304 (48×48)')
    if values.size != n or values.min() < 0 or values.max() > 255:
        raise ValueError(f'{where}: pixels that are no whole numbers from 0 to 255')
    return values.astype(np.uint8)


def _open(path):
    "The text of a csv file, as it is, in a .gz, or alone in a .zip"
    regular_file(path, 'a csv file')
    ending = path.suffix.casefold()
    if ending == '.gz':
        raw = gzip.open(path)
    elif ending == '.zip':
        archive = zipfile.ZipFile(path)
        tables = [name for name in archive.namelist()
                  if name.casefold().endswith('.csv') and '__MACOSX' not in name]
        if len(tables) != 1:
            raise ValueError(f'{path}: {len(tables)} csv files in it, expected 1')
        raw = archive.open(tables[0])
    else:
        raw = open(path, 'rb')
    return io.TextIOWrapper(raw, text_encoding(raw.peek(4)[:4]), errors='replace')


def _lines(stream, path, longest=1 << 20):
    "The lines of a stream; raises `ValueError` for one that would not end"
    while line := stream.readline(longest):
        if len(line) == longest:
            raise ValueError(f'{path}: a line of more than {longest:,} characters; expected '
                             'emotion,pixels,Usage')
        yield line


def _row(cells, place, where):
    "(pixels uint8 (2304,), split, emotion: a digit or ?) of one row"
    if len(cells) <= max(place.values()):
        n = max(len(cell.split()) for cell in cells)
        raise ValueError(f'{where}: ends after {n:,} pixels, expected 2,304 and a Usage: '
                         'a truncated download?')
    row = {name: cells[i].strip(' \'"') for name, i in place.items()}
    pixels = parse_pixels(row['pixels'], where)
    split = split_of(row['Usage'])
    if split is None:
        usage = printable(row['Usage'])[:40]
        raise ValueError(f'{where}: Usage {usage!r}, expected Training, PublicTest or PrivateTest')
    emotion = re.sub(r'\.0+$', '', row.get('emotion', ''))
    return pixels, split, emotion if re.fullmatch('[0-6]', emotion) else '?'


def read_fer2013(path: Path) -> tuple[np.ndarray, str, list]:
    """(images uint8 (N, 1, 48, 48), emotion: a digit a row or ?, split of each row) of fer2013.csv.

    Columns go by their names, in any order; `emotion` may be missing. Raises `ValueError` with
    the line.
    """
    with _open(path) as stream:
        lines = _lines(stream, path)
        first = next(lines, '')
        delimiter = max(',;\t|', key=first.count)
        head = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        columns = dict(pixels=['pixel'], Usage=[], emotion=['label'])
        place = find_columns(head, columns, path, optional=['emotion'])
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        rows = [_row(cells, place, f'{path}, line {reader.line_num + 1}')
                for cells in tqdm(reader, desc=path.name, unit=' rows', delay=1) if cells]
    if not rows:
        raise ValueError(f'{path}: no rows; expected emotion,pixels,Usage')
    images, splits, emotions = zip(*rows)
    return np.stack(images).reshape(-1, 1, 48, 48), ''.join(emotions), list(splits)


def write_fer2013(csv_path: Path, path) -> dict:
    """Decode fer2013.csv into the new npy file `path`.

    Returns the facts that `decode_once` keeps: `blank`, `emotion` and `splits`, a letter a row
    (the second of its name: r, a, e). Raises `ValueError`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', DeprecationWarning)  # older numpy only warns of text
            images, emotions, splits = read_fer2013(csv_path)
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, csv.Error) as error:
        raise ValueError(f'{csv_path}: damaged ({error}); expected emotion,pixels,Usage') from None
    new_images(path, images.shape)[:] = images
    return dict(blank=blank_images(images), emotion=emotions,
                splits=''.join(split[1] for split in splits))
