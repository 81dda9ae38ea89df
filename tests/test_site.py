"The site builds without a warning and needs no network to be read; README.md is what index.ipynb makes of it."
import re
from html import unescape
from urllib.parse import unquote, urlsplit
import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from fer_nr.docs import build_site, page_name, readme

cfg = get_config()
home = cfg.nbs_path/cfg.readme_nb

@pytest.fixture(scope='module')
def site(tmp_path_factory): return build_site(tmp_path_factory.mktemp('site')/'html').parent

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

def test_readme():
    text,images = readme(home)
    have = (cfg.config_path/'README.md').read_text('utf-8')
    assert have==text, 'README.md differs from index.ipynb: run make notebooks, or write_readme() of fer_nr.docs'
    for path,png in images.items(): assert (cfg.config_path/path).read_bytes()==png, path
    assert {p.name for p in (cfg.config_path/'index_files').glob('*')}=={p.split('/')[1] for p in images}
    assert not re.search(r'<(?:div|style|table|script)', text), 'HTML of an output in README.md'
