"""Tables as YAML writes them: their runs, the numbers beside them, what they are compared with.

    title: Which rate?
    base: vit_ti           # what rows share: fields, a file of parameters, or a list of both
    budget: six_epochs     # likewise; `fer_nr_tables mine.yaml budget=three_epochs` takes another
    rows:
    - {name: CE, spec: {}, grid: {lr: [1e-4, 3e-4]}}  # a row for each value
    - {name: F-PDLS, baseline: CE, spec: {loss: fpdls}, grid: {lr: [1e-4, 3e-4]}}
    - {name: Swin-S, paper: 88.69, base: hub, spec: {}}  # a base of its own: no budget
    - {name: somebody else's, paper: 89.16}  # a number without a run
    notes: [what a reader must know]
"""
import contextlib
import itertools
import math
from pathlib import Path

from .reading import plain_value, read_yaml
from .registry import unknown
from .spec import spec_from

__all__ = ['params_folder', 'find_table', 'load_table']

MOST_ROWS = 2000
TEXT, MAPPING, LIST = (str, 'text'), (dict, 'a mapping'), (list, 'a list')
BASE = ((dict, str, list), 'fields, the name of a file of them, or a list of these')
NUMBER = ((str, int, float), 'a percentage, 0 to 100')
TABLE = dict(title=TEXT, paper=TEXT, base=BASE, budget=BASE, rows=LIST, notes=LIST)
ROW = dict(name=TEXT, base=BASE, spec=MAPPING, grid=MAPPING, paper=NUMBER, baseline=TEXT)


def params_folder() -> Path:
    "`nbs/experiments/params` below the working folder, else in this package's checkout"
    here = Path('nbs/experiments/params')
    return here if here.is_dir() else Path(__file__).parent.parent / here


def find_table(name: str) -> Path:
    "A table by its path, or its name in params/tables; raises `FileNotFoundError` with near names"
    if Path(name).is_file():
        return Path(name)
    known = {file.stem: file for file in sorted((params_folder() / 'tables').glob('*.yaml'))}
    if str(name) not in known:
        raise FileNotFoundError(unknown('table', name, known))
    return known[str(name)]


def load_table(path: Path | str, change: dict | None = None, budget=None) -> dict:
    """A table's `title`, `paper`, `notes` and `rows`.

    A row has name, spec (a `RunSpec` or None), paper and baseline. `change` are fields to change
    in every row, `budget` stands in for the table's own. Raises `ValueError` in one line: file,
    row, what was found, what was expected.
    """
    path, content, change = Path(path), read_yaml(path), change or {}
    with named_place(path):
        check_entries(content, TABLE)
        if budget and 'budget' not in content:
            raise ValueError(f'budget={budget}: this table has no budget to change')
        shared = read_base([content.get('base', {}), budget or content.get('budget', {})], path)
    rows = named_rows(content.get('rows'), path)
    full_rows = []
    for row in rows.values():
        with named_place(f"{path}, row {row['name']!r}"):
            full_rows.append(full_row(row, shared, change, rows, path))
    with named_place(path):
        check_same_runs(rows, full_rows)
    title = content.get('title', path.stem)
    changed = dict(budget=budget) | change if budget else change
    if changed:
        title += f" ({', '.join(f'{name}={value}' for name, value in changed.items())})"
    content |= dict(title=title, rows=full_rows)
    return {name: content[name] for name in ('title', 'paper', 'notes', 'rows') if name in content}


@contextlib.contextmanager
def named_place(place):
    "An error within says where it was found"
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f'{place}: {error}') from None


def named_rows(rows, path: Path) -> dict[str, dict]:
    "Each row by its name, those of a grid one by one; raises `ValueError` with file and row"
    if not rows:
        raise ValueError(f'{path}: rows is missing or empty: expected a list of rows')
    named = {}
    for number, row in enumerate(rows, 1):
        name = f" ({str(row['name'])[:40]})" if isinstance(row, dict) and 'name' in row else ''
        with named_place(f'{path}, row {number}{name}'):
            check_row(row)
            for one in grid_rows(row):
                if one['name'] in named:
                    raise ValueError('a row above has this name already')
                named[one['name']] = one
            if len(named) > MOST_ROWS:
                raise ValueError(f'expected at most {MOST_ROWS:,} rows')
    return named


def check_entries(content, known: dict):
    "Raises `ValueError` for what is no mapping of `known` entries (name -> types and their name)"
    if not isinstance(content, dict):
        raise ValueError(f"{str(content)[:40]!r}: expected a mapping with {', '.join(known)}")
    for name, value in content.items():
        if name not in known:
            raise ValueError(unknown('entry', name, known))
        kind, expected = known[name]
        if not isinstance(value, kind):
            raise ValueError(f'{name} is {str(value)[:40]!r}: expected {expected}')
    if not all(isinstance(note, str) for note in content.get('notes', [])):
        raise ValueError('notes: expected a list of texts')


def check_row(row):
    "Raises `ValueError` for what is no row of a table"
    check_entries(row, ROW)
    if not row.get('name'):
        raise ValueError('it has no name')
    if 'spec' not in row and 'paper' not in row:
        raise ValueError("it lacks `spec` (a run of ours) or `paper` (somebody's number)")
    if 'grid' in row and 'spec' not in row:
        raise ValueError('it has a grid and no `spec` that the grid could change')
    for field, values in row.get('grid', {}).items():
        if not isinstance(values, list) or not values:
            raise ValueError(f'grid of {field} is {str(values)[:40]!r}: expected a list of values')


def read_base(base, near: Path) -> dict:
    "What rows share, as one mapping: fields, a file near the table or in params, or several"
    if isinstance(base, dict):
        return base
    if isinstance(base, list):
        parts = [read_base(part, near) for part in base]
        return {field: value for part in parts for field, value in part.items()}
    if not isinstance(base, str):
        raise ValueError(f'base {str(base)[:40]!r}: expected {BASE[1]}')
    folders = near.parent, near.parent.parent, params_folder()
    for folder in folders:
        if (folder / f'{base}.yaml').is_file():
            return read_yaml(folder / f'{base}.yaml')
    raise ValueError(unknown('base', base, [file.stem for file in params_folder().glob('*.yaml')]))


def grid_rows(row: dict) -> list[dict]:
    "A row for each combination of the values of its `grid`, named by it; `tag` says by what"
    grid = {field: plain_value(values) for field, values in row.get('grid', {}).items()}
    if math.prod(map(len, grid.values())) > MOST_ROWS:
        raise ValueError(f'its grid has more than {MOST_ROWS:,} combinations')
    if not grid:
        return [row | {'tag': ''}]
    rows = []
    for values in itertools.product(*grid.values()):
        tag = ', '.join(f'{field} {in_print(value)}' for field, value in zip(grid, values))
        spec = row.get('spec', {}) | dict(zip(grid, values))
        name = f"{row['name']}, {tag}"
        rows.append(row | {'name': name, 'spec': spec, 'tag': tag, 'grid_of': row['name']})
    return rows


def in_print(value) -> str:
    "A value of a grid, in a row's name"
    return f'{value:g}' if isinstance(value, float) else str(value)


def full_row(row: dict, shared: dict, change: dict, names: dict, near: Path) -> dict:
    "A row of `grid_rows` with its `RunSpec`, its number and the full name of its baseline"
    full = {'name': str(row['name']), 'spec': None}
    if 'paper' in row:
        full['paper'] = percentage(row['paper'])
    if 'spec' in row:
        start = read_base(row['base'], near) if 'base' in row else shared
        full['spec'] = spec_from(start | row['spec'] | change)
    if 'baseline' in row:
        same_values = f"{row['baseline']}, {row['tag']}"
        full['baseline'] = same_values if same_values in names else str(row['baseline'])
        if full['baseline'] not in names:
            raise ValueError('baseline: ' + unknown('row', row['baseline'], names))
        if full['baseline'] == full['name']:
            raise ValueError('baseline: the row itself, expected another one')
    return full


def check_same_runs(rows: dict, full_rows: list[dict]):
    "Raises `ValueError` if a row is the same run as its baseline, or as another row of its grid"
    runs = {row['name']: row['spec'].canonical('name') | {'seed': 'any'}
            for row in full_rows if row['spec']}
    first = {}
    for row in full_rows:
        name, grid = row['name'], rows[row['name']].get('grid_of')
        others = [row.get('baseline')]
        if grid:
            others.append(first.setdefault((grid, str(runs[name])), name))
        for other in others:
            if other in runs and other != name and runs[other] == runs.get(name):
                raise ValueError(f'row {name!r} is the same run as {other!r}: what they differ in '
                                 'is not looked at, or is changed in every row')


def percentage(value) -> float:
    "A published accuracy; raises `ValueError` for what is none"
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 100:
        raise ValueError(f'paper is {str(value)!r}: expected {NUMBER[1]}')
    return number
