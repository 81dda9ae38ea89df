"The site in a browser: nothing breaks, nothing is fetched from elsewhere, everything can be found and read, on a phone and in the dark too."
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
import pytest

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install -e .[dev]')
axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='axe-playwright-python is not installed: pip install -e .[dev]')
CHROMIUM = next((p for p in ('/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome') if Path(p).exists()), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='no Chromium in /usr/bin: apt-get install chromium')
QUIET = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run']
PHONE,DESK = dict(width=390, height=800), dict(width=1280, height=900)

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def base(site):
    "Address of the site, served on this machine"
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()

@pytest.fixture(scope='module')
def names(site): return sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html') if '_static' not in p.parts)

@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as pw:
        browser = pw.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()

@pytest.fixture
def page(browser, base):
    "A fresh visitor on a desk's screen, in daylight"
    context = browser.new_context(viewport=DESK, color_scheme='light', base_url=base, reduced_motion='reduce')
    yield context.new_page()
    context.close()

def dark(page, on): page.evaluate("m => Object.assign(document.documentElement.dataset, {theme: m, mode: m})", 'dark' if on else 'light')

CALM = '*, *::before, *::after { transition: none !important; animation: none !important }' # or colours are measured half-way
KINDS = 'index.html', 'loss.html', 'experiments/tables.html', 'howto/own_labels.html', 'search.html' # two style sheets colour all pages: contrast, which is slow, is measured on these

def serious(page, contrast=False):
    "What axe finds serious or critical, as text"
    options = dict(preload=False, runOnly=['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'], rules={'color-contrast': dict(enabled=contrast)})
    found = axe.Axe().run(page, options=options).response['violations']
    return [f"{v['impact']}: {v['help']}: {v['nodes'][0]['html'][:150]}" for v in found if v['impact'] in ('serious','critical')]

@pytest.fixture(scope='module')
def visits(browser, base, names):
    "Every page, opened once: page -> what was wrong, by kind"
    found = {}
    for name in names:
        context = browser.new_context(viewport=DESK, color_scheme='light', base_url=base, reduced_motion='reduce')
        page,f = context.new_page(),dict(errors=[], elsewhere=[], lost=[])
        page.on('console', lambda m: f['errors'].append(m.text) if m.type=='error' else None)
        page.on('pageerror', lambda e: f['errors'].append(str(e)))
        page.on('request', lambda r: f['elsewhere'].append(r.url) if urlsplit(r.url).netloc not in ('', urlsplit(base).netloc) else None)
        page.on('response', lambda r: f['lost'].append(r.url) if r.status>=400 else None)
        page.goto(name, wait_until='load')
        f['pictures'] = page.evaluate("[...document.images].filter(o => !o.naturalWidth || !o.alt).map(o => o.src)")
        page.add_style_tag(content=CALM)
        f['light'] = serious(page, name in KINDS)
        if name in KINDS: dark(page, True); f['dark'] = serious(page, True); dark(page, False)
        page.set_viewport_size(PHONE)
        f['wide'] = page.evaluate("[document.documentElement, document.body].map(o => o.scrollWidth).filter(o => o > innerWidth)")
        found[name] = f
        context.close()
    return found

def test_pages_open(visits):
    "No error on the console, no request that fails, no picture that is missing or without a text"
    assert not {n: f for n,v in visits.items() if (f := v['errors']+v['lost']+v['pictures'])}

def test_nothing_from_elsewhere(visits): assert not {n: v['elsewhere'] for n,v in visits.items() if v['elsewhere']}

def test_phone_width(visits):
    "No page scrolls sideways at 390 pixels"
    assert not {n: v['wide'] for n,v in visits.items() if v['wide']}

@pytest.mark.parametrize('mode', ['light','dark'])
def test_accessible(visits, mode):
    "axe finds nothing serious or critical"
    assert not {n: v[mode] for n,v in visits.items() if v.get(mode)}
    assert sum(mode in v for v in visits.values())==dict(light=len(visits), dark=len(KINDS))[mode]

def test_search(page):
    "From the home page, by keyboard, to the class"
    page.goto('index.html')
    page.keyboard.press('Control+k')
    page.keyboard.type('FPDLS'); page.keyboard.press('Enter')
    hits = page.locator('#search-results li a')
    hits.first.wait_for()
    assert any('loss.html' in (h.get_attribute('href') or '') for h in hits.all())
    page.locator('#search-results li a[href*="loss.html"]').first.click()
    assert page.locator('#fpdls').count() and 'FPDLS' in page.inner_text('article')

def test_dark_mode(page):
    "The button changes the colours, and the next page remembers; a figure stands on white, its greys as they were saved"
    def colours(): return [page.evaluate(f"getComputedStyle(document.body).{o}") for o in ('backgroundColor','color')]
    def grey(rgb): return sum(map(float, rgb[rgb.index('(')+1:-1].split(',')[:3]))/3
    page.goto('data.html'); light = colours()
    page.locator('button.theme-switch-button:visible').first.click()
    page.locator('button.theme-change-button[data-mode=dark]:visible').first.click()
    dark = colours()
    assert grey(light[0]) > 200 > 100 > grey(dark[0]) and grey(light[1]) < 100 < 150 < grey(dark[1])
    page.goto('resizer.html')
    assert colours()==dark
    assert page.evaluate("(o => [o.filter, o.backgroundColor])(getComputedStyle(document.querySelector('.cell_output img')))")==['none', 'rgb(255, 255, 255)']

def test_phone_menu(page, names):
    "The menu opens on a phone and holds every page, and the page that is chosen opens"
    page.set_viewport_size(PHONE); page.goto('index.html')
    page.locator('button.primary-toggle:visible').first.click()
    menu = page.locator('.bd-sidebar-primary, #pst-primary-sidebar-modal').filter(visible=True).first
    listed = {o.get_attribute('href').split('#')[0] or 'index.html' for o in menu.locator('nav a').all()}
    assert set(names)-{'search.html'} <= listed
    assert [o for o in ('Library','Experiments','How-to','API') if o not in menu.inner_text()]==[]
    menu.get_by_role('link', name='Loss', exact=True).click()
    page.wait_for_url('**/loss.html')

def test_equations(page):
    "MathJax renders them, from the site itself"
    page.goto('loss.html')
    page.locator('mjx-container').first.wait_for()
    assert page.locator('mjx-container').count() > 10 and not page.locator('mjx-merror, [data-mjx-error]').count()
