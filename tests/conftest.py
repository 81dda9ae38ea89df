"The order of the gate, and the real data where there is some."
import os
from pathlib import Path
import pytest

GATE = {'test_notebooks.py': 0, 'test_site.py': 2, 'test_site_browser.py': 3} # notebooks first, the site and README last, everything else between

def pytest_collection_modifyitems(items): items.sort(key=lambda o: GATE.get(o.path.name, 1))

def _folder(var, what, *holds):
    "The folder that the environment variable `var` names, or a skip that says what to do"
    if not os.environ.get(var): pytest.skip(f'{var} is not set: a folder with {what}')
    p = Path(os.environ[var]).expanduser()
    missing = [o for o in holds if not (p/o).exists()]
    if missing: pytest.fail(f'{var}={p} lacks {", ".join(missing)}: expected {what}', pytrace=False)
    return p

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "Folder of the site, built once"
    from fer_nr.docs import build_site
    return build_site(tmp_path_factory.mktemp('site')/'html').parent

@pytest.fixture(scope='session')
def fer2013():
    "Folder of the real FERPlus: Kaggle's csv and Microsoft's label files"
    return _folder('FER_NR_DATA', "Kaggle's fer2013.csv, Microsoft's fer2013new.csv and FER2013{Train,Valid,Test}/label.csv",
                   'fer2013.csv', 'fer2013new.csv', *(f'FER2013{s}/label.csv' for s in ('Train', 'Valid', 'Test')))

@pytest.fixture(scope='session')
def weights():
    "Folder of real weight files"
    return _folder('FER_NR_WEIGHTS', 'vit_tiny_patch16_224.safetensors and RFDN_AIM_x4.pth', 'vit_tiny_patch16_224.safetensors', 'RFDN_AIM_x4.pth')
