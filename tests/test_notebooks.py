"The notebooks are clean, keep the house rules, match the package, and run."
import ast
import re
from shutil import copytree, ignore_patterns

import pytest
from execnb.nbio import nb2str, read_nb
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import _build_modidx, nbglob
from nbdev.export import nb_export
from nbdev.process import NBProcessor

from tools.docs import is_generated
from tools.measures import (TOO_WIDE, WIDE, code_lines, joined_statements, measures,
                            raises_beside_if, share_wider)

config = get_config()


def name_of(notebook):
    return notebook.relative_to(config.nbs_path).as_posix()


notebooks = sorted(nbglob(as_path=True))
# what lies in experiments/ takes parameters: papermill runs it, in tests of its own
story = [notebook for notebook in notebooks if notebook.parent == config.nbs_path]
each = pytest.mark.parametrize('notebook', notebooks, ids=name_of)


@each
def test_clean(notebook):
    content = read_nb(notebook)
    clean_nb(content, allowed_cell_metadata_keys=config.allowed_cell_metadata_keys.split())
    run = f'run: nbdev_clean --fname {name_of(notebook)}'
    assert nb2str(content) == notebook.read_text('utf-8'), run


FOLDER = re.compile(r'[^\w.](/(?:home|Users|root|work|mnt)/\w[^\s"\\]*)')


SETTING = re.compile(r'\s*\w+: \w+ = ') # a table of settings, one a line, is as long as it is


@each
def test_house_rules(notebook):
    "A title alone, short cells, imports alone (the site executes them), no error, no one's folders"
    wrong = [f'path of one machine: {path}' for path in FOLDER.findall(notebook.read_text('utf-8'))]
    cells = NBProcessor(notebook).nb.cells
    if read_nb(notebook).metadata.get('kernelspec', {}).get('name') != 'python3':
        wrong.append('no kernel is named, so that JupyterLab asks for one')
    if not re.fullmatch(r'# .+(\n\n> .+)?', cells[0].source):
        wrong.append('first cell: expected a title and a line after >, nothing else')
    for cell in cells:
        if cell.cell_type != 'code':
            continue
        statements = cell.parsed_() or []
        imports = {isinstance(statement, (ast.Import, ast.ImportFrom)) for statement in statements}
        if len([line for line in cell.source.splitlines() if not SETTING.match(line)]) > 40:
            wrong.append(f'cell {cell.id}: over 40 lines')
        if len(imports) > 1:
            wrong.append(f'cell {cell.id}: an import beside other code')
        if any(output.output_type == 'error' for output in cell.outputs):
            wrong.append(f'cell {cell.id}: saved with an error')
    assert not wrong, f"{name_of(notebook)}: {'; '.join(wrong)}"


@each
def test_reads_at_first_sight(notebook):
    "No line over 120 columns, under 3 % over 100, one statement a line, `raise` on its own line"
    cells = [cell for cell in read_nb(notebook).cells if cell.cell_type == 'code']
    wrong = []
    for cell in cells:
        rules = {f'a line over {TOO_WIDE} columns': share_wider(code_lines(cell), TOO_WIDE),
                 'statements joined by ;': joined_statements(cell.source),
                 'a raise on the line of its if': raises_beside_if(cell.source)}
        wrong += [f'cell {cell.id}: {rule}' for rule, broken in rules.items() if broken]
    share = share_wider(sum(map(code_lines, cells), []), WIDE)
    if share >= 3:
        wrong.append(f'{share} % of lines over {WIDE} columns')
    assert not wrong, f"{name_of(notebook)}: {'; '.join(wrong)}"


def test_something_runs_after_definitions():
    "The next code cell runs something after nine of ten exported definitions; 80 cells at most"
    table = measures(story)
    assert table.cells.max() <= 80, table.cells[table.cells > 80].to_string()
    few = table.not_run.sum() <= .1 * table.defined.sum()
    assert few, table.not_run[table.not_run > 0].to_string()


plain = sorted(path for path in config.lib_path.glob('[a-z]*.py') if not is_generated(path))


@pytest.mark.parametrize('module', plain, ids=lambda module: module.stem)
def test_plain_modules_read_at_first_sight(module):
    "What is written by hand keeps the same rules"
    text = module.read_text('utf-8')
    lines = text.splitlines()
    assert share_wider(lines, TOO_WIDE) == 0 and share_wider(lines, WIDE) < 3
    assert not joined_statements(text) and not raises_beside_if(text)


def test_exported(tmp_path):
    "A fresh export equals the committed package, file by file, its index included"
    fresh, copy = tmp_path/config.lib_path.name, tmp_path/config.nbs_path.name
    copytree(config.nbs_path, copy)
    copytree(config.lib_path, fresh, ignore=ignore_patterns('__pycache__'))
    for module in fresh.glob('*.py'):
        if is_generated(module) or module.stem == '_modidx':
            module.unlink()  # what is written by hand stays: the index lists it
    for notebook in nbglob(copy, as_path=True):
        nb_export(notebook, lib_path=fresh)
    _build_modidx(dest=fresh, nbs_path=copy)
    have = {path.name: path.read_text('utf-8') for path in config.lib_path.glob('*.py')}
    want = {path.name: path.read_text('utf-8') for path in fresh.glob('*.py')}
    differ = sorted(name for name in have | want if have.get(name) != want.get(name))
    assert not differ, f"run: nbdev_export; it changes {', '.join(differ)}"


def test_version():
    text = (config.lib_path/'__init__.py').read_text('utf-8')  # written by hand
    assert f'__version__ = "{config.version}"' in text


@pytest.mark.parametrize('notebook_to_run', story, ids=name_of)
def test_runs(notebook_to_run, ran):
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
