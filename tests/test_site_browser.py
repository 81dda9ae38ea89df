"The site in a browser: nothing breaks, all can be found and read, on a phone and in the dark too."
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

playwright = pytest.importorskip('playwright.sync_api', reason='playwright: pip install -e .[dev]')
axe = pytest.importorskip('axe_playwright_python.sync_playwright',
                          reason='axe-playwright-python: pip install -e .[dev]')
BROWSERS = [Path('/usr/bin')/name for name in ('chromium', 'chromium-browser', 'google-chrome')]
CHROMIUM = next((path for path in BROWSERS if path.exists()), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='no Chromium: apt-get install chromium')
QUIET = ['--no-sandbox', '--disable-gpu', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--no-first-run']
PHONE, DESK = dict(width=390, height=800), dict(width=1280, height=900)
STANDARD = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']
# or colours are measured half-way
CALM = '*, *::before, *::after { transition: none !important; animation: none !important }'
# two style sheets colour all pages: contrast, which is slow, is measured on these
KINDS = 'index.html', 'loss.html', 'experiments/tables.html', 'howto/own_labels.html', 'search.html'


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def base(site):
    "Address of the site, served on this machine"
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()


@pytest.fixture(scope='module')
def names(site):
    "All pages"
    pages = [path.relative_to(site) for path in site.rglob('*.html')]
    return sorted(page.as_posix() for page in pages if '_static' not in page.parts)


@contextmanager
def chromium():
    "A browser that ends with the block"
    with playwright.sync_playwright() as pw:
        browser = pw.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def browser():
    with chromium() as browser:
        yield browser


def visitor(browser, base):
    "A fresh visitor on a desk's screen, in daylight"
    calm = dict(color_scheme='light', reduced_motion='reduce')
    return browser.new_context(viewport=DESK, base_url=base, **calm)


@pytest.fixture
def page(browser, base):
    context = visitor(browser, base)
    yield context.new_page()
    context.close()


def set_theme(page, theme):
    change = 'theme => Object.assign(document.documentElement.dataset, {theme, mode: theme})'
    page.evaluate(change, theme)


def serious(page, contrast=False):
    "What axe finds serious or critical, as text"
    rules = {'color-contrast': dict(enabled=contrast)}
    options = dict(preload=False, runOnly=STANDARD, rules=rules, resultTypes=['violations'])
    found = []
    for violation in axe.Axe().run(page, options=options).response['violations']:
        if violation['impact'] in ('serious', 'critical'):
            where = violation['nodes'][0]['html'][:150]
            found.append(f"{violation['impact']}: {violation['help']}: {where}")
    return found


def visit(context, name, host):
    "Open a page; what was wrong, by kind"
    page, found = context.new_page(), dict(errors=[], elsewhere=[], lost=[])

    def on_console(message):
        if message.type == 'error':
            found['errors'].append(message.text)

    def on_request(request):
        if urlsplit(request.url).netloc not in ('', host):
            found['elsewhere'].append(request.url)

    def on_response(response):
        if response.status >= 400:
            found['lost'].append(response.url)

    page.on('console', on_console)
    page.on('pageerror', lambda error: found['errors'].append(str(error)))
    page.on('request', on_request)
    page.on('response', on_response)
    page.goto(name, wait_until='load')
    found['pictures'] = page.evaluate(
        '[...document.images].filter(o => !o.naturalWidth || !o.alt).map(o => o.src)')
    page.add_style_tag(content=CALM)
    found['light'] = serious(page, name in KINDS)
    if name in KINDS:
        set_theme(page, 'dark')
        found['dark'] = serious(page, True)
        set_theme(page, 'light')
    page.set_viewport_size(PHONE)
    found['wide'] = page.evaluate(
        '[document.documentElement, document.body].filter(o => o.scrollWidth > innerWidth)'
        '.map(o => o.scrollWidth)')
    return found


def visit_all(names, base):
    "Pages, opened one after the other in a browser of their own: page -> what was wrong, by kind"
    found = {}
    with chromium() as browser:
        for name in names:
            context = visitor(browser, base)
            found[name] = visit(context, name, urlsplit(base).netloc)
            context.close()
    return found


@pytest.fixture(scope='module')
def visits(base, names):
    "Every page, opened once, half of them in one browser, half in another"
    halves = names[::2], names[1::2]
    with ThreadPoolExecutor(len(halves)) as pool:
        first, second = pool.map(lambda half: visit_all(half, base), halves)
    return first | second


FAULTS = ['errors', 'lost', 'pictures', 'elsewhere', 'wide', 'light', 'dark']


@pytest.mark.parametrize('kind', FAULTS)
def test_pages(visits, kind):
    """Nothing is wrong with any page

    No error on the console, no request that fails or goes elsewhere, no picture that is missing or
    has no text, nothing wider than a phone of 390 pixels, nothing serious for axe in either theme.
    """
    assert not {name: found[kind] for name, found in visits.items() if found.get(kind)}
    looked_at = [name for name, found in visits.items() if kind in found]
    assert len(looked_at) == (len(KINDS) if kind == 'dark' else len(visits))


def test_search(page):
    "From the home page, by keyboard, to the class"
    page.goto('index.html')
    page.keyboard.press('Control+k')
    page.keyboard.type('FPDLS')
    page.keyboard.press('Enter')
    hit = page.locator('#search-results li a[href*="loss.html"]').first
    hit.click()
    page.locator('#fpdls').first.wait_for(state='attached')  # a click does not wait for the page
    assert page.locator('#fpdls').count() and 'FPDLS' in page.inner_text('article')


def colours(page):
    "Background and text of the page, each as a grey from 0 to 255"
    style = page.evaluate('(o => [o.backgroundColor, o.color])(getComputedStyle(document.body))')
    greys = []
    for colour in style:
        rgb = colour[colour.index('(') + 1:-1].split(',')[:3]
        greys.append(sum(map(float, rgb)) / 3)
    return greys


def test_dark_mode(page):
    "The button changes the colours and the next page remembers; a figure stands on white as it was"
    page.goto('data.html')
    background, text = colours(page)
    assert background > 200 and text < 100
    page.locator('button.theme-switch-button:visible').first.click()
    page.locator('button.theme-change-button[data-mode=dark]:visible').first.click()
    dark = colours(page)
    assert dark[0] < 100 and dark[1] > 150
    page.goto('resizer.html')
    assert colours(page) == dark
    style = "getComputedStyle(document.querySelector('.cell_output img'))"
    figure = page.evaluate(f'(o => [o.filter, o.backgroundColor])({style})')
    assert figure == ['none', 'rgb(255, 255, 255)']


def test_phone_menu(page, names):
    "The menu opens on a phone and holds every page, and the page that is chosen opens"
    page.set_viewport_size(PHONE)
    page.goto('index.html')
    page.locator('button.primary-toggle:visible').first.click()
    menus = page.locator('.bd-sidebar-primary, #pst-primary-sidebar-modal')
    menu = menus.filter(visible=True).first
    links = [link.get_attribute('href') for link in menu.locator('nav a').all()]
    listed = {link.split('#')[0] or 'index.html' for link in links}
    assert set(names) - {'search.html'} <= listed
    for caption in ('Story', 'Experiments', 'How-to', 'API'):
        assert caption in menu.inner_text()
    menu.get_by_role('link', name='Loss', exact=True).click()
    page.wait_for_url('**/loss.html')


def test_equations(page):
    "MathJax renders them, from the site itself"
    page.goto('loss.html')
    page.locator('mjx-container').first.wait_for()
    assert page.locator('mjx-container').count() > 10
    assert not page.locator('mjx-merror, [data-mjx-error]').count()
