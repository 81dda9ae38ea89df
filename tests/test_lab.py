"The lab in a real JupyterLab: Chromium runs it, moves controls, sees pictures, uploads files."
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from nbdev.config import get_config
from PIL import Image

from fer_nr.ablation import RunSpec, build_model, load_faces, make_record
from fer_nr.synthetic import draw_faces
from fer_nr.training import save_state

playwright = pytest.importorskip('playwright.sync_api', reason='playwright: pip install -e .[dev]')
BROWSERS = [Path('/usr/bin')/name for name in ('chromium', 'chromium-browser', 'google-chrome')]
CHROMIUM = next((path for path in BROWSERS if path.exists()), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='no Chromium: apt-get install chromium')
config = get_config()
WAIT = 240_000  # ms; a busy machine may need it, an idle one does not
SETTINGS = {
    'notebook-extension/tracker': dict(windowingMode='none'),
    'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False)}
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--no-first-run']
# what is drawn, small enough to compare
PIXELS = '''async picture => {
  await picture.decode();
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 96;
  canvas.getContext('2d').drawImage(picture, 0, 0, 96, 96);
  return canvas.toDataURL() }'''
SMALL = RunSpec(data='synthetic', limit=300, img_size=48, up='sr', up_size=72, down='ltr',
                loss='fpdls', head='linear', augment='none', arch='vit_tiny_patch16_224',
                arch_args=dict(patch_size=12, embed_dim=32, depth=2, num_heads=2))


def finished_run(folder, spec):
    "What a finished run leaves, without the training"
    faces = load_faces(spec)
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = build_model(spec, faces).eval()
    history = [dict(epoch=epoch, lr=1e-3, train_loss=2/epoch, valid_loss=2.1/epoch, top1=.2*epoch,
                    seconds=1., images_per_s=9.) for epoch in (1, 2)]
    save_state(folder/'best.safetensors', model.state_dict(), {})
    checkpoint = SimpleNamespace(history=history, best=dict(epoch=2))
    learn = SimpleNamespace(model=model, dls=SimpleNamespace(device='cpu'), checkpoint=checkpoint)
    make_record(spec, faces, learn, folder)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A checkout in small: the lab with few faces, one run, the published records

    Of the notebook, those cells that show controls, and what they need.
    """
    root = tmp_path_factory.mktemp('lab')
    shown = []
    for name in ('10_lab', '10a_photo'):
        notebook = json.loads((config.nbs_path/f'{name}.ipynb').read_text('utf-8'))
        shown += [cell for cell in notebook['cells'] if wanted_here(''.join(cell['source']))]
    text = json.dumps(notebook | dict(cells=shown))
    assert text.count('limit=2000') == 1
    (root/'nbs').mkdir()
    (root/'nbs/10_lab.ipynb').write_text(text.replace('limit=2000', 'limit=300'), 'utf-8')
    copytree(config.config_path/'results', root/'results')
    finished_run(root/'runs'/SMALL.id, SMALL)
    for name, content in SETTINGS.items():
        file = root/f'settings/@jupyterlab/{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return root


def wanted_here(source):
    "Is it an import for, or one of, the cells that need a kernel?"
    imports = 'from fer_nr.lab import', 'from fer_nr.photo_lab import'
    return '#| eval: false' in source or any(line in source for line in imports)


@pytest.fixture(scope='module')
def server(root):
    "Address of a JupyterLab of its own"
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    ours = ('FER_NR_', 'JUPYTER')
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env |= dict(HOME=str(root/'home'), JUPYTERLAB_SETTINGS_DIR=str(root/'settings'),
                OMP_NUM_THREADS='1', MPLBACKEND='agg')
    for kind in ('config', 'data', 'runtime'):
        env[f'JUPYTER_{kind.upper()}_DIR'] = str(root/'home'/kind)
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root',
               '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--ServerApp.port_retries=0',
               f'--ServerApp.root_dir={root}', '--IdentityProvider.token=',
               '--LabApp.extension_manager=readonly']
    with open(root/'server.log', 'w') as log:
        process = subprocess.Popen(command, cwd=root, env=env, stdout=log, stderr=log)
    address, end = f'http://127.0.0.1:{port}', time.time() + WAIT/1000
    while not answers(address):
        assert process.poll() is None and time.time() < end, (root/'server.log').read_text()[-2000:]
        time.sleep(.2)
    yield address
    process.terminate()
    process.wait(30)


def answers(address):
    "Is somebody there?"
    try:
        urlopen(f'{address}/api', timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope='module')
def page(server):
    "The lab, opened and run to its end"
    own = (server, 'blob:', 'data:', server.replace('http', 'ws'))
    with playwright.sync_playwright() as pw:
        browser = pw.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport=dict(width=1400, height=1000))
        page.set_default_timeout(WAIT)
        page.requested = []
        page.on('request', lambda request: page.requested.append(request.url))
        page.goto(f'{server}/lab/tree/nbs/10_lab.ipynb')
        page.locator('.jp-Notebook .jp-CodeCell').first.wait_for()
        page.get_by_text('Python 3 (ipykernel) | Idle').wait_for()
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.locator('[data-command="runmenu:run-all"]').click()
        page.locator('.jp-Notebook img.widget-image').nth(5).wait_for()
        page.elsewhere = [address for address in page.requested if not address.startswith(own)]
        yield page
        browser.close()


class Cell:
    "One explorer: the n-th cell with a picture"

    def __init__(self, page, n):
        cells = page.locator('.jp-Notebook .jp-CodeCell')
        self.page, self.at = page, cells.filter(has=page.locator('.jupyter-widgets')).nth(n)
        self.picture = self.at.locator('img.widget-image')
        self.at.scroll_into_view_if_needed()

    def control(self, label):
        return self.at.get_by_label(label, exact=True)

    def slider(self, label):
        return self.at.locator(f'label:text-is("{label}") ~ *').get_by_role('slider').first

    def pixels(self):
        return self.picture.evaluate(PIXELS)

    def changes(self, act, *arguments):
        "Do something and wait until the picture is another one"
        before, end = self.pixels(), time.time() + WAIT/1000
        act(*arguments)
        while self.pixels() == before:
            assert time.time() < end, 'the picture stays the same'
            self.page.wait_for_timeout(100)

    def error(self):
        return self.at.get_by_role('alert')

    def upload(self, file):
        with self.page.expect_file_chooser() as chooser:
            self.at.get_by_role('button', name='Choose a picture').click()
        chooser.value.set_files(file)


@pytest.fixture
def cell(page):
    return lambda n: Cell(page, n)


def test_everything_ran(page):
    "No cell failed, each of six explorers shows a picture, and nothing was asked of another host"
    errors = page.locator('.jp-Notebook [data-mime-type="application/vnd.jupyter.stderr"]')
    assert errors.count() == 0
    assert page.locator('.jp-Notebook img.widget-image').count() == 6
    assert page.get_by_role('alert').count() == 0
    assert not page.elsewhere


def test_faces(cell):
    faces = cell(0)
    faces.changes(faces.control('label').select_option, 'fear')
    faces.changes(faces.control('split').select_option, 'test')
    faces.changes(lambda: faces.control('model').select_option(index=1))
    faces.changes(faces.control('label').select_option, 'all')
    faces.changes(faces.slider('page').press, 'ArrowRight')
    faces.control('name contains').fill('nobody')
    faces.changes(faces.control('name contains').press, 'Enter')


def test_error_is_one_line(cell):
    "An impossible question is answered in the widget, and leaves it usable"
    faces = cell(0)
    faces.control('model').select_option('none')
    faces.control('name contains').fill('')
    faces.control('name contains').press('Enter')
    faces.control('order').select_option('model disagrees with votes')
    faces.error().wait_for()
    wanted = "order 'model disagrees with votes' needs the logits of a model: choose one"
    assert faces.error().inner_text() == wanted
    assert not faces.picture.is_visible()
    faces.control('order').select_option('votes agree')
    faces.picture.wait_for()
    assert 'order: votes agree' in faces.picture.get_attribute('alt')  # what a screen reader says
    assert faces.error().count() == 0


def test_resizer_and_upload(cell, tmp_path):
    resizer = cell(1)
    resizer.changes(resizer.slider('source, px').press, 'ArrowLeft')
    resizer.changes(resizer.control('up-scaler').select_option, 'bicubic')
    resizer.changes(lambda: resizer.control('weights').select_option(index=1))
    assert not resizer.control('up-scaler').is_visible()
    before = resizer.pixels()
    resizer.control('face').select_option('your own')
    resizer.error().wait_for()
    notes = tmp_path/'<i>notes.txt'
    notes.write_text('hello')
    resizer.upload(notes)
    resizer.error().filter(has_text='notes.txt').wait_for()
    wanted = '<i>notes.txt: not a readable picture (found none of JPEG'
    assert resizer.error().inner_text().startswith(wanted)  # the name is text, not HTML
    face = np.pad(draw_faces('anger', seed=5, size=96)[0][0], ((0, 0), (30, 0)))
    Image.fromarray(face).save(tmp_path/'me.jpg')
    resizer.upload(tmp_path/'me.jpg')
    resizer.picture.wait_for()
    assert resizer.error().count() == 0 and resizer.pixels() != before


def test_loss(cell):
    loss = cell(2)
    loss.changes(loss.slider('α, label').press, 'ArrowLeft')
    loss.changes(loss.slider('γ, focus').press, 'ArrowRight')
    loss.changes(loss.control('label').select_option, 'anger')


def test_runs(cell):
    runs = cell(3)
    for view in ('confusion, rates', 'recall by class', 'reliability', 'paired test',
                 'faces on which they differ'):
        runs.changes(runs.control('view').select_option, view)
    first = runs.at.locator('table tbody tr').first
    before = first.inner_text()
    runs.control('smallest first').check()
    changed = '([row, before]) => !row.isConnected || row.innerText !== before'
    runs.page.wait_for_function(changed, arg=[first.element_handle(), before])
    last = runs.control('runs').locator('option').last.inner_text()
    runs.control('runs').select_option([last])
    runs.error().filter(has_text='choose two runs').wait_for()


def test_attention(cell):
    attention = cell(4)
    attention.changes(attention.control('label').select_option, 'happiness')
    attention.changes(attention.slider('face').press, 'ArrowRight')
    attention.changes(attention.control('model').select_option, 'an untrained ViT')


def test_photo(cell, tmp_path):
    pytest.importorskip('cv2', reason='opencv: pip install -e .[recognize]')
    photo = cell(5)
    photo.changes(photo.control('where it looked').uncheck)
    Image.new('RGB', (64, 64)).save(tmp_path/'black.png')
    photo.upload(tmp_path/'black.png')
    photo.error().filter(has_text='no face found in this picture').wait_for()
    example = get_sample_data('grace_hopper.jpg', asfileobj=False)
    photo.upload(example)
    photo.picture.wait_for()
    assert not photo.error().count()
