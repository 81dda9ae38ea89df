"""Tables as people save them: csv files with any of the usual separators, encodings and headings.

Cells stay text, and the index of a table is the line in the file, so that every complaint names it.
"""
import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from .files import printable, read_text

__all__ = ['plain', 'csv_rows', 'find_columns', 'read_table', 'whole_numbers', 'check_name',
           'check_names']


def plain(text) -> str:
    "Letters and digits of a name, in lower case"
    return re.sub(r'[\W_]+', '', str(text)).casefold()


def csv_rows(path: Path, what: str) -> list:
    "[(line, cells)] of a csv file with commas, semicolons, tabs or bars"
    text = read_text(path, what)
    delimiter = max(',;\t|', key=text.split('\n', 1)[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    rows = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if cells not in ([], ['']):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f'{path}, line {reader.line_num}: {error}; expected {what}') from None
    if not rows:
        raise ValueError(f'{path}: no rows; expected {what}')
    return rows


def find_columns(head: list, columns: dict, where, optional=()) -> dict:
    """{name: position} of the `columns`, {name: other names that it may have}, in a header.

    Raises `ValueError` for one that is there twice, or missing and not `optional`.
    """
    heads = [plain(name) for name in head]
    places = {}
    for name, others in columns.items():
        for alias in map(plain, (name, *others)):
            if heads.count(alias) > 1:
                raise ValueError(f'{where}: column {name} is there {heads.count(alias)} times')
            if alias in heads:
                places[name] = heads.index(alias)
                break
    missing = [name for name in columns if name not in places and name not in optional]
    if missing:
        found = printable(', '.join(head))[:100] or 'nothing'
        raise ValueError(f'{where}: no column {", ".join(missing)} in its first line; it has '
                         f'{found}')
    return places


def read_table(path: Path, columns: dict, optional=()) -> pd.DataFrame:
    "Columns of a csv file that has a header, as `find_columns` finds them; index: line in the file"
    rows = csv_rows(path, f'the columns {", ".join(columns)}')
    head = rows[0][1]
    places = find_columns(head, columns, path, optional)
    for line, cells in rows[1:]:
        if len(cells) != len(head) and (len(cells) != len(head) + 1 or cells[-1]):
            raise ValueError(f'{path}, line {line}: {len(cells)} values, expected {len(head)}')
    if len(rows) < 2:
        raise ValueError(f'{path}: no rows; expected some below the columns {", ".join(columns)}')
    content = {name: [cells[i] for _, cells in rows[1:]] for name, i in places.items()}
    return pd.DataFrame(content, index=[line for line, _ in rows[1:]])


def whole_numbers(table: pd.DataFrame, columns, path, low: int = 0,
                  high: int = 10_000) -> np.ndarray:
    "Columns of whole numbers from `low` to `high` as int64 (N, len(columns)); raises `ValueError`"
    columns = list(columns)
    values = table[columns].apply(pd.to_numeric, errors='coerce').to_numpy(float)
    right = (values >= low) & (values <= high) & (values == np.floor(values))
    for row, column in np.argwhere(~right)[:1]:
        cell = printable(table[columns[column]].iloc[row])[:40]
        raise ValueError(f'{path}, line {table.index[row]}: {columns[column]} is {cell!r}, '
                         f'expected a whole number from {low} to {high}')
    return values.astype(np.int64)


def check_name(name: str, where: str) -> str:
    "A name from a list or folder; raises `ValueError` if it is no printable path below the folder"
    if not name or not name.isprintable():
        raise ValueError(f"{where}: the name '{printable(name)}' is empty, not UTF-8, or has "
                         'control characters; expected a printable one')
    parts = re.split(r'[/\\]', name)
    if not parts[0] or '..' in parts or re.fullmatch('[A-Za-z]:', parts[0]):
        raise ValueError(f'{where}: {name!r} leads out of the data folder; expected a path in it')
    return name


def check_names(table: pd.DataFrame, path: Path):
    "Refuse a list whose column `name` holds one that is not fit to be read, or is there twice"
    for line, name in table.name.items():
        check_name(name, f'{path}, line {line}')
    again = table.name.duplicated()
    for line, name in table.name[again][:1].items():
        first = table.index[table.name == name][0]
        raise ValueError(f'{path}, line {line}: {name!r} stands in line {first} already; '
                         'expected each picture once')
