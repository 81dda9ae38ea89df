"The notebooks are clean, keep the house rules, match the package, and run."
import ast, json, os, re, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
import pytest
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import _build_modidx, nbglob
from nbdev.export import nb_export
from nbdev.process import NBProcessor
from execnb.nbio import nb2str, read_nb

cfg = get_config()
nbs = sorted(nbglob(as_path=True))
name = lambda p: p.relative_to(cfg.nbs_path).as_posix()
each = pytest.mark.parametrize('nb', nbs, ids=name)
story = [p for p in nbs if p.parent==cfg.nbs_path] # what lies in experiments/ takes parameters: papermill runs it, in tests of its own

@each
def test_clean(nb):
    d = read_nb(nb)
    clean_nb(d, allowed_cell_metadata_keys=cfg.allowed_cell_metadata_keys.split())
    assert nb2str(d)==nb.read_text('utf-8'), f'run: nbdev_clean --fname {name(nb)}'

@each
def test_house_rules(nb):
    "Short cells, imports alone in theirs (the site executes them), no saved error, no path of anybody's machine"
    wrong = [f'path of one machine: {p}' for p in re.findall(r'[^\w.](/(?:home|Users|root|work|mnt)/\w[^\s"\\]*)', nb.read_text('utf-8'))]
    cells = NBProcessor(nb).nb.cells
    if not re.fullmatch(r'# .+(\n\n> .+)?', cells[0].source): wrong.append('first cell: expected a title and a line after >; the site shows no more of it')
    for c in cells:
        if c.cell_type!='code': continue
        kinds = {isinstance(o, (ast.Import, ast.ImportFrom)) for o in (c.parsed_() or [])}
        if c.source.count('\n') >= 40: wrong.append(f'cell {c.id}: over 40 lines')
        if len(kinds) > 1: wrong.append(f'cell {c.id}: an import beside other code')
        if any(o.output_type=='error' for o in c.outputs): wrong.append(f'cell {c.id}: saved with an error')
    assert not wrong, f'{name(nb)}: ' + '; '.join(wrong)

def test_exported(tmp_path):
    "A fresh export equals the committed package, file by file, its index included"
    fresh = tmp_path/cfg.lib_path.name
    copytree(cfg.nbs_path, tmp_path/cfg.nbs_path.name); fresh.mkdir()
    for p in nbglob(tmp_path/cfg.nbs_path.name, as_path=True): nb_export(p, lib_path=fresh)
    _build_modidx(dest=fresh, nbs_path=tmp_path/cfg.nbs_path.name)
    read = lambda d: {p.relative_to(d).as_posix(): p.read_text('utf-8') for p in d.rglob('*.py')}
    have,want = read(cfg.lib_path), read(fresh)
    assert f'\n__version__ = "{cfg.version}"\n' in have.pop('__init__.py') # written by hand
    differ = sorted(k for k in have.keys()|want.keys() if have.get(k)!=want.get(k))
    assert not differ, f'run: nbdev_export; it changes {", ".join(differ)}'

RUN = '''import sys; from pathlib import Path; from nbdev.config import get_config; from nbdev.test import test_nb
cfg = get_config(); sys.exit(not test_nb(Path(sys.argv[1]), skip_flags=cfg.tst_flags.split(), basepath=cfg.config_path)[0])'''

@pytest.fixture(scope='module')
def runs(request):
    "All notebooks that were asked for, each in its own process, as many at a time as there are cores"
    wanted = [o.callspec.params['nb'] for o in request.session.items if o.name.startswith('test_runs[')]
    env = os.environ | dict(OMP_NUM_THREADS='1', MPLBACKEND='agg')
    def run(nb): return subprocess.run([sys.executable, '-c', RUN, str(nb.absolute())], capture_output=True, text=True, env=env, cwd=cfg.config_path)
    with ThreadPoolExecutor(os.cpu_count()) as pool: yield {nb: pool.submit(run, nb) for nb in wanted}

@pytest.mark.parametrize('nb', story, ids=name)
def test_runs(nb, runs):
    r = runs[nb].result()
    assert r.returncode==0, r.stdout[-2000:] + r.stderr[-4000:]
