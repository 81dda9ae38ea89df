"The site builds without a warning and needs no network; README.md is what index.ipynb makes of it."
import re
from html import unescape
from urllib.parse import unquote, urlsplit

import pytest
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob

from tools.docs import notebook_of_modules, public_names, readme
from tools.myst import page_name

config = get_config()
home = config.nbs_path/config.readme_nb
modules = sorted(config.lib_path.glob('[a-z]*.py'))


@pytest.fixture(scope='module')
def pages(site):
    "path of a page -> its HTML"
    return {page: page.read_text('utf-8') for page in site.rglob('*.html')}


def test_site(site):
    "Sphinx's warnings are errors; every notebook has its page"
    for notebook in nbglob(as_path=True):
        folder = notebook.relative_to(config.nbs_path).parent
        assert (site/folder/f'{page_name(notebook)}.html').exists()


LOADED = re.compile(r'<(?:script|img|iframe|source)[^>]*?\ssrc="([^"]+)"')
OTHER_PAGE = r'rel="(?:canonical|index|search|next|prev)"'
LINKED = re.compile(rf'<link(?![^>]*{OTHER_PAGE})[^>]*?\shref="([^"]+)"')


def test_offline(pages):
    "Nothing that a page loads comes from elsewhere"
    for page, text in pages.items():
        loads = LOADED.findall(text) + LINKED.findall(text)
        assert not [address for address in loads if urlsplit(address).netloc], page.name


def test_links(pages):
    "Every link inside the site arrives, at an anchor too"
    anchors = {}
    for page, text in pages.items():
        anchors[page] = set(map(unescape, re.findall(r'\sid="([^"]*)"', text)))
    for page, text in pages.items():
        for link in set(re.findall(r'<a[^>]*?\shref="([^"]+)"', text)):
            address = urlsplit(unescape(link))
            if address.scheme or not (address.path or address.fragment):
                continue
            target = (page.parent/unquote(address.path)).resolve() if address.path else page
            assert target.exists(), f'{page.name}: {link}'
            if address.fragment and target in anchors:
                assert unquote(address.fragment) in anchors[target], f'{page.name}: {link}'


def test_anchors(site):
    "nbdev's own addresses, as README and `doc` give them, arrive"
    from fer_nr._modidx import d as index
    for symbols in index['syms'].values():
        for name, (address, _) in symbols.items():
            page, anchor = address.split('#')
            if '._' in name or name.count('.') > 2:
                continue  # private names and methods need no entry
            assert f'id="{anchor}"' in (site/page).read_text('utf-8'), f'{name}: {address}'


def test_every_name(site):
    "All that a module defines for others is on the API page, and leads to its entry if it has one"
    api, notebooks = (site/'api.html').read_text('utf-8'), notebook_of_modules()
    for module in modules:
        for name in public_names(module):
            assert f'>{name.name}<' in api, f'{module.name}: {name.name} is not on the page'
            if module.stem in notebooks and name.value is None:
                page = page_name(notebooks[module.stem])
                entry = re.sub(r'[_.]', '-', f'{page}.{name.name}'.lower())
                assert f'href="{page}.html#{entry}"' in api, f'{module.stem}.{name.name}: no entry'


def test_one_meaning():
    "No prose names what two notebooks export, or nbdev's link leads to one of them"
    names = []
    for module in notebook_of_modules():
        names += [name.name for name in public_names(config.lib_path/f'{module}.py')]
    twice = {name for name in names if names.count(name) > 1}
    for notebook in nbglob(as_path=True):
        prose = [cell.source for cell in read_nb(notebook).cells if cell.cell_type == 'markdown']
        told = set(re.findall(r'`(\w+)`', '\n'.join(prose)))
        assert not told & twice, f'{notebook.name}: write it with its module, fer_nr.module.name'


def test_sections(site):
    "Every notebook is in the navigation once, under the heading of its folder"
    text = (site/'index.html').read_text('utf-8')
    start = text.index('bd-links')
    navigation = text[start:text.index('</nav>', start)]
    parts = re.split(r'<span class="caption-text">([^<]+)</span>', navigation)
    found = {}
    for caption, part in zip(parts[1::2], parts[2::2]):
        found[caption] = re.findall(r'href="([^"#]+)', part)
    folders = {'Story': '', 'Experiments': 'experiments/', 'How-to': 'howto/'}
    assert list(found) == [*folders, 'API'] and found['API'] == ['api.html']
    for caption, folder in folders.items():
        notebooks = (config.nbs_path/folder).glob('*.ipynb')
        wanted = {f'{folder}{page_name(notebook)}.html' for notebook in notebooks} - {'index.html'}
        assert sorted(found[caption]) == sorted(wanted), caption


def test_readme():
    text, images = readme(home)
    have = (config.config_path/'README.md').read_text('utf-8')
    assert have == text, 'README.md differs from index.ipynb: run make notebooks'
    for path, png in images.items():
        assert (config.config_path/path).read_bytes() == png, path
    kept = {path.name for path in (config.config_path/'index_files').glob('*')}
    assert kept == {path.split('/')[1] for path in images}
    assert not re.search(r'<(?:div|style|table|script)', text), 'HTML of an output in README.md'
