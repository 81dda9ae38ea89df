"Names of folders, files, runs and rows are text in everything that a browser shows."
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import ipywidgets
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image

from fer_nr.data import image_folder
from fer_nr.faces import Faces, FaceSet
from fer_nr.lab import (alert_tag, explore_attention, explore_faces, explore_loss,
                        explore_resizer, explore_runs, own_face)
from fer_nr.results import print_table, records
from fer_nr.tables import load_table

ROOT = Path(__file__).parents[1]
SCRIPT = '<script>alert(1)</script>'
IMAGE = '"><img src=x onerror=alert(1)>'
MATHS = r'$\frac{$'
ALLOWED = {'img', 'span', 'div', 'style', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'h3', 'ul',
           'ol', 'li', 'p', 'em', 'strong', 'code'}


class Tags(HTMLParser):
    "Refuses a tag or an attribute that could do something"
    def handle_starttag(self, tag, attrs):
        assert tag in ALLOWED, self.get_starttag_text()[:80]
        assert not [name for name, _ in attrs if name.startswith('on')], attrs
        source = dict(attrs).get('src', 'data:')
        assert source.startswith('data:'), source[:80]


def check(html):
    "Nothing in it but what we write"
    parser = Tags()
    parser.feed(html)
    parser.close()


def html_of(widget):
    "All HTML that a widget holds"
    if isinstance(widget, ipywidgets.HTML):
        yield widget.value
    assert not getattr(widget, 'description_allow_html', False)
    for child in getattr(widget, 'children', ()):
        yield from html_of(child)


@pytest.fixture(scope='module')
def faces():
    "Three classes and nine faces, all of them called what no one should be called"
    pixels = torch.randint(0, 256, (9, 1, 48, 48), generator=torch.Generator().manual_seed(0))
    names = [f'{name}{i}.png' for i, name in enumerate((SCRIPT, IMAGE, MATHS)*3)]
    labels = torch.arange(9) % 3
    votes = torch.nn.functional.one_hot(labels, 3) + 1
    split = FaceSet(pixels.byte(), labels, votes, names, (SCRIPT, IMAGE, MATHS))
    return Faces(split, split, split, SCRIPT)


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    "A folder with two records of runs on such faces"
    folder = tmp_path_factory.mktemp('results')
    for file, name in zip(sorted((ROOT/'results').glob('*.json')), (SCRIPT, IMAGE)):
        record = json.loads(file.read_text())
        record |= dict(id=name, device=f'{name} GPU')
        record['data'] |= dict(name=name)
        (folder/file.name).write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize('explore', [explore_faces, explore_resizer, explore_loss,
                                     explore_attention])
def test_explorers(faces, explore, tmp_path):
    "The picture, what a screen reader says of it, and errors"
    explorer = explore(faces) if explore is explore_loss else explore(faces, tmp_path)
    assert not explorer.error and explorer.png
    for control in explorer.controls.values():
        for value in getattr(control, 'options', ())[:3]:
            control.value = value[1] if isinstance(value, tuple) else value
            for html in html_of(explorer):
                check(html)
    if 'name' in explorer.controls:
        explorer.controls['name'].value = IMAGE
        assert not explorer.error
        explorer.controls['name'].value = 'nobody <b>'
        for html in html_of(explorer):
            check(html)


def test_records(published):
    explorer = explore_runs(published, published)
    for view in explorer.controls['view'].options:
        explorer.controls['view'].value = view
        for html in html_of(explorer):
            check(html)
    assert 'alert(1)' in explorer.table.value


def test_errors():
    with pytest.raises(ValueError) as error:
        own_face(b'no picture', IMAGE, 1)
    check(alert_tag(error.value))
    assert 'onerror' in alert_tag(error.value)
    with pytest.raises(AssertionError):
        check(f'<p>{SCRIPT}')


@pytest.mark.parametrize('format', ['html', 'md'])
def test_tables(published, format, tmp_path):
    "Names and remarks from a table's file, devices from records"
    specs = [record.spec for record in records(published)]
    rows = [dict(name=name, spec=replace(spec).__dict__)
            for name, spec in zip((SCRIPT, f'a | {IMAGE}'), specs)]
    table = dict(title=SCRIPT, paper=IMAGE, notes=[SCRIPT, IMAGE], rows=rows)
    (tmp_path/'table.yaml').write_text(json.dumps(table))
    page = print_table(load_table(tmp_path/'table.yaml'), records(published), format)
    assert page.count('alert(1)') > 5
    if format == 'md':
        page = MarkdownIt('commonmark').enable('table').render(page)
        assert page.count('<tr>') == 3
    check(page)


def test_folders(tmp_path):
    "A data set that is printed, and what is said of it"
    for name in ('<script>alert(1)', IMAGE.replace('/', '')):
        for split in ('train', 'test'):
            (tmp_path/split/name).mkdir(parents=True)
            for i in range(4):
                Image.effect_noise((8, 8), 90).save(tmp_path/split/name/f'{i}.png')
    faces = image_folder(tmp_path, size=48, grey=True)
    assert not hasattr(faces, '_repr_html_') and not hasattr(faces.train, '_repr_html_')
    explorer = explore_faces(faces, tmp_path)
    assert explorer.png
    for html in html_of(explorer):
        check(html)
