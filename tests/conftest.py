"The order of the gate, and the real data where there is some."
import os
from pathlib import Path

import pytest

# notebooks first, the site and README last, everything else between
GATE = {'test_notebooks.py': 0, 'test_site.py': 2, 'test_site_browser.py': 3}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: GATE.get(item.path.name, 1))


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
    "Folder of the site, built once"
    from tools.docs import build_site
    return build_site(tmp_path_factory.mktemp('site')/'html').parent


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
