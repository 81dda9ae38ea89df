"The site builds without a warning and needs no network to be read; README.md is what index.ipynb makes of it."
import re
from html import unescape
from urllib.parse import unquote, urlsplit
import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from fer_nr.docs import page_name, public_names, readme

cfg = get_config()
home = cfg.nbs_path/cfg.readme_nb

@pytest.fixture(scope='module')
def pages(site): return {p: p.read_text('utf-8') for p in site.rglob('*.html')}

def test_site(site):
    "Sphinx's warnings are errors; every notebook has its page"
    for nb in nbglob(as_path=True): assert (site/nb.relative_to(cfg.nbs_path).parent/f'{page_name(nb)}.html').exists()

def test_offline(pages):
    "Nothing that a page loads comes from elsewhere"
    for p,s in pages.items():
        loads = re.findall(r'<(?:script|img|iframe|source)[^>]*?\ssrc="([^"]+)"', s) + re.findall(r'<link(?![^>]*rel="(?:canonical|index|search|next|prev)")[^>]*?\shref="([^"]+)"', s)
        assert not [o for o in loads if urlsplit(o).netloc], p.name

def test_links(site, pages):
    "Every link inside the site arrives, at an anchor too"
    ids = {p: set(map(unescape, re.findall(r'\sid="([^"]*)"', s))) for p,s in pages.items()}
    for p,s in pages.items():
        for link in set(re.findall(r'<a[^>]*?\shref="([^"]+)"', s)):
            u = urlsplit(unescape(link))
            if u.scheme or not (u.path or u.fragment): continue
            to = (p.parent/unquote(u.path)).resolve() if u.path else p
            assert to.exists(), f'{p.name}: {link}'
            assert not u.fragment or to not in ids or unquote(u.fragment) in ids[to], f'{p.name}: {link}'

def test_anchors(site):
    "nbdev's own addresses, as README and `doc` give them, arrive"
    from fer_nr._modidx import d
    for syms in d['syms'].values():
        for name,(address,_) in syms.items():
            page,anchor = address.split('#')
            if '._' in name or name.count('.') > 2: continue # private names and methods need no entry
            assert f'id="{anchor}"' in (site/page).read_text('utf-8'), f'{name}: {address}'

def test_every_name(site):
    "All that a module exports is on the API page: a function or class leads to its entry, a constant shows its value"
    api = (site/'api.html').read_text('utf-8')
    for m in cfg.lib_path.glob('[a-z]*.py'):
        for o in public_names(m):
            entry = re.sub(r'[_.]', '-', f'{m.stem}.{o.name}'.lower())
            assert f'>{o.name}<' in api and (o.value is not None or f'href="{m.stem}.html#{entry}"' in api), f'{m.name}: {o.name} has no entry'

def test_one_meaning():
    "No two modules export the same name: a link from a backticked name knows only one"
    names = [o.name for m in cfg.lib_path.glob('[a-z]*.py') for o in public_names(m)]
    assert not {o for o in names if names.count(o)>1}

def test_sections(site):
    "Every notebook is in the navigation, under the heading of its folder"
    nav = (site/'index.html').read_text('utf-8')
    nav = nav[nav.index('bd-links'):nav.index('</nav>', nav.index('bd-links'))]
    parts = re.split(r'<span class="caption-text">([^<]+)</span>', nav)
    found = {caption: re.findall(r'href="([^"#]+)', part) for caption,part in zip(parts[1::2], parts[2::2])}
    of = {'Library': '', 'Experiments': 'experiments/', 'How-to': 'howto/'}
    assert list(found)==[*of, 'API'] and found['API']==['api.html']
    for caption,folder in of.items():
        want = {f'{folder}{page_name(nb)}.html' for nb in (cfg.nbs_path/folder).glob('*.ipynb')}-{'index.html'}
        assert set(found[caption])==want and len(found[caption])==len(want), caption

def test_readme():
    text,images = readme(home)
    have = (cfg.config_path/'README.md').read_text('utf-8')
    assert have==text, 'README.md differs from index.ipynb: run make notebooks, or write_readme() of fer_nr.docs'
    for path,png in images.items(): assert (cfg.config_path/path).read_bytes()==png, path
    assert {p.name for p in (cfg.config_path/'index_files').glob('*')}=={p.split('/')[1] for p in images}
    assert not re.search(r'<(?:div|style|table|script)', text), 'HTML of an output in README.md'
