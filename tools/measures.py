"""How notebooks and modules read, in numbers, so that drift is seen: `python -m tools.measures`

In notebooks that are a pleasure to read (nbdev's, fastcore's, miniai's) we counted: a median cell
of 2 to 4 lines, nine of ten no longer than 7 to 17; 25 to 30 percent prose, 20 to 25 exported, 15
to 25 test, 5 to 10 plots; 1 to 5 percent of displayed lines over 90 columns. In their modules under
1 percent of lines is over 120 columns, a function has 31 to 75 syntax nodes in the median, and 5 to
20 percent of names are private. What leaves these bounds is not wrong, but somebody should look.
"""
import ast
import json
import re
import sys
from pathlib import Path

import pandas as pd

WIDE, TOO_WIDE = 100, 120  # columns
KINDS = ('prose', 'export', 'test', 'plot', 'other')
TEST = re.compile(r'^\s*(?:test_\w+\(|assert\b|with expect_fail\b)', re.M)
EXPORT = re.compile(r'^#\|\s*exporti?\b', re.M)
DEFINES = re.compile(r'^(?:class|def|async def) ', re.M)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


# A cell

def source_of(cell: dict) -> str:
    "The text of a cell, which notebooks keep as one string or as lines"
    return ''.join(cell['source'])


def kind(cell: dict) -> str:
    "What a cell is for, one of `KINDS`; an exported cell is that even if it asserts"
    source = source_of(cell)
    if cell['cell_type'] != 'code':
        return 'prose'
    if EXPORT.search(source):
        return 'export'
    if TEST.search(source):
        return 'test'
    for output in cell.get('outputs', []):
        if 'image/png' in output.get('data', {}):
            return 'plot'
    return 'other'


def code_lines(cell: dict) -> list[str]:
    "The lines of a code cell that are neither empty nor an option of the cell"
    lines = source_of(cell).splitlines()
    return [line for line in lines if line.strip() and not line.startswith('#|')]


def parsed(source: str) -> ast.Module:
    "The syntax of a cell or module; of a cell with a magic, of nothing"
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse('')


def joined_statements(source: str) -> list[int]:
    "Lines on which a `;` joins two statements"
    lines = []
    for node in ast.walk(parsed(source)):
        for block in ('body', 'orelse', 'finalbody'):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                for before, after in zip(statements, statements[1:]):
                    if before.end_lineno == after.lineno:
                        lines.append(after.lineno)
    return lines


def raises_beside_if(source: str) -> list[int]:
    "Lines that hold an `if` and the `raise` in its body"
    lines = []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.If) and isinstance(node.body[0], ast.Raise):
            if node.body[0].lineno == node.test.end_lineno:
                lines.append(node.lineno)
    return lines


# A notebook

def without_run(notebook: dict) -> tuple[int, int]:
    "How many exported cells define something, and of how many the next code cell runs nothing"
    cells = [source_of(cell) for cell in notebook['cells'] if cell['cell_type'] == 'code']
    defining = not_run = 0
    for i, cell in enumerate(cells):
        if EXPORT.search(cell) and DEFINES.search(cell):
            defining += 1
            is_last = i + 1 == len(cells)
            not_run += is_last or bool(EXPORT.search(cells[i + 1]))
    return defining, not_run


def share_wider(lines: list[str], columns: int) -> float:
    "Percent of lines that are wider than so many columns"
    return round(100 * sum(len(line) > columns for line in lines) / max(1, len(lines)), 1)


def measure(notebook: dict) -> dict:
    """The measures of a notebook

    Cells and percent of each kind; lines of a code cell (median, nine of ten, longest); percent of
    lines over 100 and over 120 columns; exported cells with a definition, and those without a run.
    """
    kinds = pd.Series([kind(cell) for cell in notebook['cells']], dtype=str)
    cells = [code_lines(cell) for cell in notebook['cells'] if cell['cell_type'] == 'code']
    lengths = pd.Series([len(lines) for lines in cells if lines] or [0])
    lines = sum(cells, [])
    row = dict(cells=len(kinds))
    row |= {name: round(100 * (kinds == name).mean()) for name in KINDS}
    row |= dict(median=lengths.median(), p90=round(lengths.quantile(.9)), longest=lengths.max())
    row |= dict(wide=share_wider(lines, WIDE), too_wide=share_wider(lines, TOO_WIDE))
    row['defined'], row['not_run'] = without_run(notebook)
    return row


def measures(paths=None) -> pd.DataFrame:
    "A row for each notebook (None: all of the workbook)"
    root = Path('nbs')
    rows = {}
    for path in sorted(root.rglob('[0-9a-z]*.ipynb')) if paths is None else map(Path, paths):
        name = path.relative_to(root) if path.is_relative_to(root) else path
        notebook = json.loads(path.read_text(encoding='utf-8'))
        rows[name.with_suffix('').as_posix()] = measure(notebook)
    return pd.DataFrame.from_dict(rows, orient='index')


# A module

def measure_module(path: Path) -> dict:
    """The measures of a module

    Lines, and percent of them over 100 and over 120 columns; top-level names and percent of private
    ones; functions and their syntax nodes (median, nine of ten); `raise` on the line of its `if`.
    """
    text = path.read_text(encoding='utf-8')
    tree = ast.parse(text)
    lines = [line for line in text.splitlines() if line.strip()]
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    nodes = pd.Series([sum(1 for _ in ast.walk(function)) for function in functions] or [0])
    names = [node.name for node in tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef))]
    private = sum(name.startswith('_') for name in names)
    row = dict(lines=len(text.splitlines()))
    row |= dict(wide=share_wider(lines, WIDE), too_wide=share_wider(lines, TOO_WIDE))
    row |= dict(names=len(names), private=round(100 * private / max(1, len(names))))
    row |= dict(functions=len(functions), nodes=nodes.median(), nodes_p90=round(nodes.quantile(.9)))
    row['if_raise'] = len(raises_beside_if(text))
    return row


def module_measures(paths=None) -> pd.DataFrame:
    "A row for each module (None: all of the package)"
    if paths is None:
        paths = [path for path in sorted(Path('fer_nr').glob('*.py')) if path.name[0] != '_']
    rows = {Path(path).stem: measure_module(Path(path)) for path in paths}
    return pd.DataFrame.from_dict(rows, orient='index')


def main(asked: list[str]):
    "Print the measures of the files that were asked for; of everything, if none was"
    notebooks = [path for path in asked if path.endswith('.ipynb')]
    modules = [path for path in asked if path.endswith('.py')]
    if notebooks or not asked:
        print(measures(notebooks or None).to_string(), end='\n\n')
    if modules or not asked:
        table = module_measures(modules or None)
        print(table.to_string())
        print(f'{table.lines.sum():,} lines')


if __name__ == '__main__':
    main(sys.argv[1:])
