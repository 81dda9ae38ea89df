"The lab in a real JupyterLab: headless Chromium runs the notebook, moves controls, sees the pictures change, uploads files."
import json, os, socket, subprocess, sys, time
from pathlib import Path
from shutil import copy, copytree
from types import SimpleNamespace
from urllib.request import urlopen
import numpy as np, pytest, torch
from PIL import Image
from nbdev.config import get_config
from fer_nr.ablation import RunSpec, build_model, load_faces, make_record
from fer_nr.synthetic import draw_faces
from fer_nr.training import save_state

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install -e .[dev]')
CHROMIUM = next((p for p in ('/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome') if Path(p).exists()), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='no Chromium in /usr/bin: apt-get install chromium')
cfg = get_config()
WAIT = 120_000 # ms; a busy machine may need it, an idle one does not
QUIET = {'notebook-extension/tracker': dict(windowingMode='none'), 'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False)}
PIXELS = '''async img => { await img.decode(); const c = document.createElement('canvas'); c.width = 96; c.height = 96;
  c.getContext('2d').drawImage(img, 0, 0, 96, 96); return c.toDataURL() }''' # what is drawn, small enough to compare

def finished_run(folder, spec):
    "What a finished run leaves, without the training"
    faces,d = load_faces(spec),folder/spec.id
    d.mkdir(parents=True)
    torch.manual_seed(0)
    model = build_model(spec, faces).eval()
    history = [dict(epoch=e, lr=1e-3, train_loss=2/e, valid_loss=2.1/e, top1=.2*e, seconds=1., images_per_s=9.) for e in (1, 2)]
    save_state(d/'best.safetensors', model.state_dict(), {})
    make_record(spec, faces, SimpleNamespace(model=model, dls=SimpleNamespace(device='cpu'), checkpoint=SimpleNamespace(history=history, best=dict(epoch=2))), d)

@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "A checkout in small: the lab with few faces, one run, the published records"
    root = tmp_path_factory.mktemp('lab')
    (root/'nbs').mkdir()
    text = (cfg.nbs_path/'21_lab.ipynb').read_text('utf-8')
    assert text.count('limit=2000')==1
    (root/'nbs/21_lab.ipynb').write_text(text.replace('limit=2000', 'limit=300'), 'utf-8')
    copytree(cfg.config_path/'results', root/'results')
    finished_run(root/'runs', RunSpec(data='synthetic', limit=300, img_size=48, up='sr', up_size=72, down='ltr', loss='fpdls', head='linear', augment='none',
        arch='vit_tiny_patch16_224', arch_args=dict(patch_size=12, embed_dim=32, depth=2, num_heads=2)))
    for k,v in QUIET.items():
        f = root/f'settings/@jupyterlab/{k}.jupyterlab-settings'
        f.parent.mkdir(parents=True, exist_ok=True); f.write_text(json.dumps(v))
    return root

@pytest.fixture(scope='module')
def server(root):
    "Address of a JupyterLab of its own"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = {k:v for k,v in os.environ.items() if not k.startswith(('FER_NR_', 'JUPYTER'))} | dict(HOME=str(root/'home'), JUPYTERLAB_SETTINGS_DIR=str(root/'settings'), OMP_NUM_THREADS='1', MPLBACKEND='agg')
    env |= {f'JUPYTER_{k}_DIR':str(root/f'home/{k.lower()}') for k in ('CONFIG', 'DATA', 'RUNTIME')}
    cmd = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--ServerApp.port_retries=0',
           f'--ServerApp.root_dir={root}', '--IdentityProvider.token=', '--LabApp.extension_manager=readonly']
    with open(root/'server.log', 'w') as log: p = subprocess.Popen(cmd, cwd=root, env=env, stdout=log, stderr=log)
    url,end = f'http://127.0.0.1:{port}',time.time()+WAIT/1000
    while True:
        try: urlopen(f'{url}/api', timeout=5).close(); break
        except OSError:
            assert p.poll() is None and time.time()<end, (root/'server.log').read_text()[-2000:]
            time.sleep(.2)
    yield url
    p.terminate(); p.wait(30)

@pytest.fixture(scope='module')
def page(server):
    "The lab, opened and run to its end"
    with playwright.sync_playwright() as pw:
        browser = pw.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'])
        page = browser.new_page(viewport=dict(width=1400, height=1000))
        page.set_default_timeout(WAIT)
        page.elsewhere = []
        page.on('request', lambda r: r.url.startswith((server, 'blob:', 'data:', server.replace('http', 'ws'))) or page.elsewhere.append(r.url))
        page.goto(f'{server}/lab/tree/nbs/21_lab.ipynb')
        page.locator('.jp-Notebook .jp-CodeCell').first.wait_for()
        page.get_by_text('Python 3 (ipykernel) | Idle').wait_for()
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.locator('[data-command="runmenu:run-all"]').click()
        page.locator('.jp-Notebook img.widget-image').nth(4).wait_for()
        yield page
        browser.close()

class Cell:
    "One explorer: the n-th cell with a picture"
    def __init__(self, page, n):
        self.page,self.at = page,page.locator('.jp-Notebook .jp-CodeCell').filter(has=page.locator('.jupyter-widgets')).nth(n)
        self.picture = self.at.locator('img.widget-image')
        self.at.scroll_into_view_if_needed()
    def control(self, label): return self.at.get_by_label(label, exact=True)
    def slider(self, label): return self.at.locator(f'label:text-is("{label}") ~ *').get_by_role('slider').first
    def pixels(self): return self.picture.evaluate(PIXELS)
    def changes(self, act):
        "Do something and wait until the picture is another one"
        before,end = self.pixels(),time.time()+WAIT/1000
        act()
        while self.pixels()==before:
            assert time.time()<end, 'the picture stays the same'
            self.page.wait_for_timeout(100)
    def error(self): return self.at.get_by_role('alert')
    def upload(self, file):
        with self.page.expect_file_chooser() as c: self.at.get_by_role('button', name='Choose a picture').click()
        c.value.set_files(file)

@pytest.fixture
def cell(page): return lambda n: Cell(page, n)

def test_everything_ran(page):
    "No cell failed, each of five explorers shows a picture, and nothing was asked of another host"
    assert page.locator('.jp-Notebook [data-mime-type="application/vnd.jupyter.stderr"]').count()==0
    assert page.locator('.jp-Notebook img.widget-image').count()==5
    assert page.get_by_role("alert").count()==0
    assert not page.elsewhere

def test_faces(cell):
    c = cell(0)
    c.changes(lambda: c.control('label').select_option('fear'))
    c.changes(lambda: c.control('split').select_option('test'))
    c.changes(lambda: c.control('model').select_option(index=1))
    c.changes(lambda: c.control('label').select_option('all'))
    slider = c.slider('page')
    c.changes(lambda: slider.press('ArrowRight'))
    c.control('name contains').fill("nobody")
    c.changes(lambda: c.control('name contains').press('Enter'))

def test_error_is_one_line(cell):
    "An impossible question is answered in the widget, and leaves it usable"
    c = cell(0)
    c.control('model').select_option('none')
    c.control('name contains').fill(''); c.control('name contains').press('Enter')
    c.control('order').select_option('model disagrees with votes')
    c.error().wait_for()
    assert c.error().inner_text()=="order 'model disagrees with votes' needs the logits of a model: choose one"
    assert not c.picture.is_visible()
    c.control('order').select_option('votes agree')
    c.picture.wait_for()
    assert 'order: votes agree' in c.picture.get_attribute('alt') # what a screen reader says of it
    assert c.error().count()==0

def test_resizer_and_upload(cell, tmp_path):
    c = cell(1)
    c.changes(lambda: c.slider('source, px').press('ArrowLeft'))
    c.changes(lambda: c.control('up-scaler').select_option('bicubic'))
    c.changes(lambda: c.control('weights').select_option(index=1))
    assert not c.control('up-scaler').is_visible()
    before = c.pixels()
    c.control('face').select_option('your own')
    c.error().wait_for()
    (tmp_path/'notes.txt').write_text('hello')
    c.upload(tmp_path/'notes.txt')
    c.error().filter(has_text='notes.txt').wait_for()
    assert c.error().inner_text()=='notes.txt: not a readable picture (5 bytes); expected a PNG or JPEG file'
    Image.fromarray(np.pad(draw_faces('anger', seed=5, size=96)[0][0], ((0, 0), (30, 0)))).save(tmp_path/'me.jpg')
    c.upload(tmp_path/'me.jpg')
    c.picture.wait_for()
    assert c.error().count()==0 and c.pixels()!=before

def test_loss(cell):
    c = cell(2)
    c.changes(lambda: c.slider('α, label').press('ArrowLeft'))
    c.changes(lambda: c.slider('γ, focus').press('ArrowRight'))
    c.changes(lambda: c.control('label').select_option('anger'))

def test_runs(cell):
    c = cell(3)
    for view in ('confusion, rates', 'recall by class', 'reliability', 'paired test', 'faces on which they differ'): c.changes(lambda: c.control('view').select_option(view))
    first = c.at.locator('table tbody tr').first
    before = first.inner_text()
    c.control('smallest first').check()
    c.page.wait_for_function('([row,before]) => !row.isConnected || row.innerText!==before', arg=[first.element_handle(), before])
    c.control('runs').select_option([c.control('runs').locator('option').last.inner_text()])
    c.error().filter(has_text='choose two runs').wait_for()

def test_attention(cell):
    c = cell(4)
    c.changes(lambda: c.control('label').select_option('happiness'))
    c.changes(lambda: c.slider('face').press('ArrowRight'))
    c.changes(lambda: c.control('model').select_option('an untrained ViT'))
