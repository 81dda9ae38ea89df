"The order of the gate, what runs beside it (notebooks, site), and real data where there is some."
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from nbdev.config import get_config

# notebooks first, the site and README last, everything else between
GATE = {'test_notebooks.py': 0, 'test_site.py': 2, 'test_site_browser.py': 3}


def running(item):
    "The notebook that a test wants to be run; None for all other tests"
    return item.callspec.params.get('running') if hasattr(item, 'callspec') else None


def pytest_collection_modifyitems(items):
    "What a notebook's run came to is looked at late: it has begun before the first test"
    items.sort(key=lambda item: 1.5 if running(item) else GATE.get(item.path.name, 1))


RUN = """
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
config = get_config()
skip = config.tst_flags.split()
passed, _ = test_nb(Path(sys.argv[1]), skip_flags=skip, basepath=config.config_path)
sys.exit(not passed)
"""


def in_its_own_process(code, argument):
    "What Python code came to in a process of its own, with one thread, in the project's folder"
    environment = os.environ | dict(OMP_NUM_THREADS='1', MPLBACKEND='agg')
    return subprocess.run([sys.executable, '-c', code, str(argument)], text=True,
                          capture_output=True, env=environment, cwd=get_config().config_path)


def run_notebook(notebook):
    "A notebook, as a reader would run it"
    return in_its_own_process(RUN, notebook.absolute())


BUILD = """
import sys
from tools.docs import build_site
build_site(sys.argv[1])
"""


def built_site():
    "A temporary folder with the site in `html`; raises `RuntimeError` with Sphinx's words"
    folder = tempfile.TemporaryDirectory()
    result = in_its_own_process(BUILD, f'{folder.name}/html')
    if result.returncode:
        raise RuntimeError(result.stderr)
    return folder


RUNS = pytest.StashKey()
SITE = pytest.StashKey()


def pytest_collection_finish(session):
    """All notebooks that are wanted begin to run, and after them the site is built, if it is wanted

    One core is left to the other tests, if there are some.
    """
    wanted = [running(item) for item in session.items if running(item)]
    if session.config.option.collectonly or not wanted:
        return
    others = len(wanted) < len(session.items)
    pool = ThreadPoolExecutor(max(1, os.cpu_count() - others))
    runs = {notebook: pool.submit(run_notebook, notebook) for notebook in wanted}
    session.config.stash[RUNS] = pool, runs
    if any('site' in item.fixturenames for item in session.items):
        session.config.stash[SITE] = pool.submit(built_site)


def pytest_sessionfinish(session):
    pool, _ = session.config.stash.get(RUNS, (None, {}))
    if pool:
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def runs(request):
    "Notebook -> what its run will have come to"
    return request.config.stash[RUNS][1]


def folder_from(variable, what, *holds):
    "The folder that an environment variable names, or a skip that says what to do"
    if not os.environ.get(variable):
        pytest.skip(f'{variable} is not set: a folder with {what}')
    folder = Path(os.environ[variable]).expanduser()
    missing = [name for name in holds if not (folder/name).exists()]
    if missing:
        pytest.fail(f"{variable}={folder} lacks {', '.join(missing)}: expected {what}", pytrace=False)
    return folder


@pytest.fixture(scope='session')
def site(request):
    "Folder of the site, built once"
    begun = request.config.stash.get(SITE, None)
    with begun.result() if begun else built_site() as folder:
        yield Path(folder)/'html'


@pytest.fixture(scope='session')
def fer2013():
    "Folder of the real FERPlus: Kaggle's csv and Microsoft's label files"
    labels = [f'FER2013{split}/label.csv' for split in ('Train', 'Valid', 'Test')]
    what = "Kaggle's fer2013.csv, Microsoft's fer2013new.csv and FER2013{Train,Valid,Test}/label.csv"
    return folder_from('FER_NR_DATA', what, 'fer2013.csv', 'fer2013new.csv', *labels)


@pytest.fixture(scope='session')
def weights():
    "Folder of real weight files"
    names = 'vit_tiny_patch16_224.safetensors', 'RFDN_AIM_x4.pth'
    return folder_from('FER_NR_WEIGHTS', ' and '.join(names), *names)


@pytest.fixture(scope='session')
def reference_folder():
    "Folder of reference values of RAN, SCN, PSR and local binary patterns"
    return folder_from('FER_NR_REFERENCE', 'reference values of RAN, SCN and PSR', 'ran_net.json')
