"The order of the gate, notebooks and the site in processes of their own, real data if there is some."
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from nbdev.config import get_config

# Several processes (`make test` starts two) take one file after the other, the long ones first
LONG = ['test_site.py', 'test_notebooks.py', 'test_distributed.py', 'test_runs.py', 'test_sweep.py',
        'test_site_browser.py', 'test_howto.py', 'test_package.py', 'test_backbone.py',
        'test_experiments.py', 'test_campaign.py', 'test_lab.py', 'test_checkpoint.py']

if 'PYTEST_XDIST_WORKER' in os.environ:
    torch.set_num_threads(1)  # a core each


def pytest_collection_modifyitems(items):
    "The order of the files"
    ranks = {name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONG)))


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


@pytest.fixture
def ran(notebook_to_run):
    "What a notebook came to, run as a reader would run it"
    return in_its_own_process(RUN, notebook_to_run.absolute())


BUILD = """
import sys
from tools.docs import build_site
build_site(sys.argv[1])
"""


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
def site(tmp_path_factory):
    "Folder of the site, built once for all processes; Sphinx's warnings are errors"
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if 'PYTEST_XDIST_WORKER' in os.environ else own
    folder = shared/'site'
    with FileLock(shared/'site.lock'):
        if not folder.exists():
            result = in_its_own_process(BUILD, folder)
            assert result.returncode == 0, result.stderr[-4000:]
    return folder


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
