"The tools of this repository: from nbdev to MyST, pages, README, saved outputs, measures."
import re
import textwrap

import pandas as pd
import pytest
import torch
from execnb.nbio import mk_cell, new_nb, read_nb, write_nb
from fastcore.xtras import dict2obj
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import PILToTensor

from fer_nr.data import synthetic
from fer_nr.runs import build_learner, load_faces
from fer_nr.spec import RunSpec
from tools import docs, measures, myst, step_shares, usual

config = get_config()
SITE = 'https://host.org/fer_nr'


def code(source, *outputs):
    cell = mk_cell(source)
    cell.outputs = [dict2obj(output, list_func=list) for output in outputs]
    return cell


# From nbdev to MyST

def test_toy_notebook():
    "What nbdev hands over for a made-up notebook becomes a title, a lead paragraph, tags"
    class WithoutOurs(FilterDefaults):
        def xtra_procs(self):
            return []

    title = mk_cell('# Toy\n\n> A subtitle', 'markdown')
    half = mk_cell('#| export\ndef half(x): return x/2')
    notebook = new_nb([title, half, mk_cell('#| echo: false\nhalf(3)')])
    notebook.path_ = 'nbs/07_toy.ipynb'
    WithoutOurs()(notebook)
    assert notebook.cells[0].cell_type == 'raw'
    NBProcessor(nb=notebook, procs=myst.ToMyst, process=True)
    assert notebook.cells[0].source == '# Toy\n\n{.lead}\nA subtitle'
    shown, = [cell for cell in notebook.cells if cell.source == 'half(3)']
    assert shown.metadata['tags'] == ['remove-input']


def test_cell_options():
    source = '#| echo: false\n#| fig-alt: A face\nshow(face)'
    assert myst.cell_options(source) == ('show(face)', ['remove-input'], 'A face')
    no_option = 'half(3) #| echo: false'
    assert myst.cell_options(no_option) == (no_option, [], '')


class FPDLS:
    pass


class FiniteLoss:
    pass


class Moved(Exception):
    pass


class Stranger:
    pass


def test_entry_knows_the_exported_definition():
    "A class made in a cell has no file; the exported one has comments and a line"
    text = myst.Entry(FPDLS)._repr_markdown_()
    assert re.search(r'class FPDLS\(.*?alpha:float=0.8, *# \w', text, re.S) and '#LNone' not in text
    assert myst.exported(Stranger) is Stranger


@pytest.mark.parametrize('cls, base', [(FiniteLoss, 'Callback'), (Moved, 'Exception')])
def test_entry_of_a_class_without_init_shows_its_base(cls, base):
    "Not the twenty parameters of somebody else's `__init__`; an exception has none to show"
    text = myst.Entry(cls)._repr_markdown_()
    shown = re.search(r'```python\n(.*?)\n```', text, re.S)[1]
    assert shown == f'class {cls.__name__}({base})'


@pytest.mark.parametrize('name, mute', [
    ('FaceSet.__getitem__', False), ('FaceSet', False), ('FaceSet.__repr__', True)])
def test_mute(name, mute):
    assert myst.is_mute(mk_cell(f'show_doc({name})')) == mute


def test_entries_in_the_order_of_their_lines():
    def entry(line):
        return dict(has_sd=True, line=line)

    cells = [entry(3), entry(1), dict(line=0), entry(9), entry(5)]
    ordered = myst.in_order(cells, lambda cell: cell['line'])
    assert [cell['line'] for cell in ordered] == [1, 3, 0, 5, 9]


@pytest.mark.parametrize('text, wanted', [
    ('see [`ece`](https://host.org/fer_nr/evaluation.html#ece)', 'see [`ece`](#evaluation.ece)'),
    ('[data](../00_data.ipynb), [nbdev](https://nbdev.org/a.ipynb)',
     '[data](../data.ipynb), [nbdev](https://nbdev.org/a.ipynb)'),
    ('```python\nx, # a [`FaceSet`](https://host.org/fer_nr/data.html#faceset)\n```',
     '```python\nx, # a `FaceSet`\n```'),
    ('::: {.callout-note title="x"}\nText\n:::', ':::{note}\nText\n:::'),
    ('---\n\n[source](https://g.org/t.py#L1){target="_blank" style="x"}\n\n### Half.of_it\n\nHalf',
     '(toy.half.of_it)=\n### `Half.of_it`\n\n<a id="half.of_it"></a>'
     '[source](https://g.org/t.py#L1){.source}\n\n\nHalf')])
def test_to_myst(text, wanted):
    assert myst.to_myst(text, 'toy', SITE) == wanted


@pytest.mark.parametrize('text, targets, wanted', [
    ('[`A.b`](#toy.a.b), [`A`](#toy.a), [`_c`](#toy._c)', {'toy.a'},
     '[`A.b`](#toy.a), [`A`](#toy.a), `_c`'),
    ('`K` of [`K`](a)\n```\n# `K`\n```', {'constant.toy.k'},
     '[`K`](#constant.toy.k) of [`K`](a)\n```\n# `K`\n```')])
def test_resolve(text, targets, wanted):
    assert myst.resolve(text, targets) == wanted


def test_page_name():
    assert myst.page_name('nbs/00a_synthetic.ipynb') == 'synthetic'
    assert myst.page_name('index.ipynb') == 'index'


def test_last_shown():
    states = dict(box=dict(state=dict(children=['IPY_MODEL_slider', 'IPY_MODEL_out'])),
                  slider=dict(state=dict(value=3)), out=dict(state=dict(outputs=['a picture'])))
    assert myst.last_shown(states, 'box') == ['a picture']


# Tables

def heads(table):
    rows = [myst.CELL.findall(row) for row in myst.ROW.findall(table)]
    return [[myst.cell_text(cell) for cell in row] for row in rows]


def test_tidy_table():
    "Columns of words get a class, the name of the index moves into the header, other HTML stays"
    top1 = ['82.28 [80.90, 83.57]', '–']
    table = pd.DataFrame(dict(name=['bilinear', 'SR'], top1=top1, p=[.05, None]))
    tidy = myst.tidy_table(table.to_html())
    assert re.findall(r'class="words"[^>]*>(\w+)', tidy) == ['name', 'bilinear', 'SR']
    assert tidy.replace(' class="words"', '') == table.to_html()
    styled = myst.tidy_table(table.style.hide().to_html())
    assert re.findall(r'class="words [^>]*>([\w.]+)', styled) == ['name', 'bilinear', 'SR']
    named = table.set_index('name')
    assert heads(named.to_html())[:2] == [['', 'top1', 'p'], ['name', '', '']]
    first, *rest = heads(myst.tidy_table(named.to_html()))
    assert first == ['name', 'top1', 'p'] and rest == heads(named.to_html())[2:]
    assert heads(myst.tidy_table(named.style.to_html()))[0] == ['name', 'top1', 'p']
    assert myst.tidy_table('<b>no table</b>') == '<b>no table</b>'


# Names

TOY = '''
__all__ = ['A', 'B']
A = 1
A = A + 1
class B: 'Bs'
@patch(as_prop=True)
def size(self:B): 'How many'
@patch
def _in(self:B): 'Inside'
@patch
def hook(self:B): pass
def other(): pass
from elsewhere import C
'''.lstrip()


def test_public_names(tmp_path):
    (tmp_path/'toy.py').write_text(TOY)
    found = docs.public_names(tmp_path/'toy.py')
    assert found == [('A', '', '1', 2), ('B', 'Bs', None, 4), ('B.size', 'How many', None, 6)]


def test_module_that_only_passes_names_on(tmp_path):
    text = "from .a import *\nfrom . import a\n__all__ = a.__all__ + ['b']\n"
    (tmp_path/'hub.py').write_text(text)
    assert docs.public_names(tmp_path/'hub.py') == []


def test_api_page():
    "A notebook's names lead to their entries, those of a plain module to their source"
    page = docs.api_page()
    assert '| [`FPDLS`](#loss.fpdls) | ' in page
    assert re.search(r'\| `faces_figure` \| A page of faces.*figures\.py#L\d+', page)
    for line in config.d['console_scripts'].split():
        assert f"| [`{line.split('=')[0]}`](#" in page
    assert '(constant.figures.orders)=' in page


# Pages

def pages_of(folder, names, home=''):
    "The tables of contents that `arrange` writes: (page, caption) -> pages"
    for name in names:
        (folder/name).parent.mkdir(exist_ok=True)
        write_nb(new_nb([]), folder/f'{name}.ipynb')
    write_nb(new_nb([mk_cell(home, 'markdown')]), folder/'index.ipynb')
    docs.arrange(folder)
    found = {}
    for path in sorted(folder.rglob('*.ipynb')):
        for cell in read_nb(path).cells:
            if cell.source.startswith('```{toctree}'):
                caption = re.search(':caption: (.*)', cell.source)
                listed = cell.source.split('\n\n')[1].split('\n')[:-1]
                found[path.stem, caption[1] if caption else ''] = listed
    return found


def test_story_by_chapters_others_as_the_home_page_mentions_them(tmp_path):
    names = ['00_data', '00a_synthetic', '00b_splits', '06_spec', '06a_runs', '10_lab',
             '05b_commands', 'experiments/ablation', 'experiments/train', 'experiments/zoo', 'api']
    home = '[Zoo](experiments/zoo.ipynb) [Train](experiments/train.ipynb)'
    assert pages_of(tmp_path, names, home) == {
        ('index', 'Story'): ['data', 'commands', 'spec', 'lab'],
        ('data', ''): ['synthetic', 'splits'],
        ('spec', ''): ['runs'],
        ('index', 'Experiments'): ['experiments/zoo', 'experiments/train', 'experiments/ablation'],
        ('index', 'API'): ['api']}


def test_two_notebooks_with_one_page(tmp_path):
    with pytest.raises(ValueError, match='only their numbers differ: data'):
        pages_of(tmp_path, ['00_data', '01_data'])


# README and saved outputs

def test_from_root():
    links = '[a](00_data.ipynb) [b](../Makefile) [c](https://x.org) [d](#e)'
    wanted = '[a](nbs/00_data.ipynb) [b](Makefile) [c](https://x.org) [d](#e)'
    assert docs.from_root(links, 'nbs') == wanted


def test_readme(tmp_path):
    picture = dict(output_type='display_data', data={'image/png': 'AAAA'})
    printed = dict(output_type='stream', name='stdout', text='1.5\n')
    cells = [mk_cell('# Toy\n\n> Halves', 'markdown'),
             code('#| echo: false\n#| fig-alt: A face\nplot()', picture),
             code('print(half(3))', printed),
             mk_cell('#| hide\nsecret()')]
    write_nb(new_nb(cells), tmp_path/'index.ipynb')
    text, images = docs.readme(tmp_path/'index.ipynb')
    assert text == textwrap.dedent('''\
        # Toy

        > Halves

        <!-- Made from index.ipynb: edit there. -->

        ![A face](index_files/1.png)

        ```python
        print(half(3))
        ```

            1.5
        ''')
    assert images == {'index_files/1.png': b'\0\0\0'}


def test_execute_hides_data_and_passes_over_slow_cells(tmp_path, monkeypatch):
    monkeypatch.setenv('FER_NR_DATA', '/faces')
    kernel = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    cells = [mk_cell("import os; 'FER_NR_DATA' in os.environ"), mk_cell('#| slow\n1/0')]
    write_nb(new_nb(cells, kernel), tmp_path/'toy.ipynb')
    docs.execute(tmp_path/'toy.ipynb')
    first = read_nb(tmp_path/'toy.ipynb').cells[0]
    assert [output.data['text/plain'] for output in first.outputs] == [['False']]


# Measures

@pytest.mark.parametrize('source, output, kind', [
    ('#| export\nassert True', None, 'export'), ('test_eq(1, 1)', 'image/png', 'test'),
    ('with expect_fail():\n    f()', None, 'test'), ('plot()', 'image/png', 'plot'),
    ('a = 1', 'text/plain', 'other')])
def test_kind(source, output, kind):
    outputs = [dict(output_type='display_data', data={output: ''})] if output else []
    assert measures.kind(code(source, *outputs)) == kind


def test_measure():
    wide = 'a = ' + "'" + 'x'*100 + "'"
    sources = ['#| export\ndef f(x):\n\n    return x', 'test_eq(f(1), 1)',
               '#| export\nclass A: pass', '#| export\nB = 1', wide]
    cells = [mk_cell('One.', 'markdown'), *map(code, sources)]
    row = measures.measure(dict(cells=cells))
    expected = dict(cells=6, prose=17, export=50, test=17, plot=0, other=17, median=1, p90=2,
                    longest=2, wide=round(100/6, 1), too_wide=0, defined=2, not_run=1)
    assert row == expected


def test_measure_module(tmp_path):
    (tmp_path/'toy.py').write_text('def _f(x):\n    if x: raise ValueError\n\nclass A:\n    pass\n')
    row = measures.measure_module(tmp_path/'toy.py')
    assert (row['lines'], row['names'], row['private']) == (5, 2, 50)
    assert (row['functions'], row['if_raise']) == (1, 1)
    assert row['nodes'] == 9  # FunctionDef, arguments, arg, If, Raise, two names with contexts


@pytest.mark.parametrize('source, lines', [
    ('a = 1; b = 2', [1]), ('f(";");', []), ('if x:\n    a = 1; b = 2', [2]),
    ('for x in y: a(); b()', [1]), ('a\nb', [])])
def test_joined_statements(source, lines):
    assert measures.joined_statements(source) == lines


@pytest.mark.parametrize('source, lines', [
    ('if x: raise E', [1]), ('if x:\n    raise E', []),
    ('if x: a()\nif (x and\n    y): raise E', [2])])
def test_raises_beside_if(source, lines):
    assert measures.raises_beside_if(source) == lines


@pytest.mark.parametrize('operation, wanted', [
    ('aten::addmm', 'matrix products'), ('aten::mm', 'matrix products'),
    ('aten::_scaled_dot_product_flash_attention_for_cpu', 'matrix products'),
    ('aten::mkldnn_convolution', 'convolutions'), ('aten::convolution_backward', 'convolutions'),
    ('aten::copy_', 'copies'), ('aten::gelu_backward', 'activations'),
    ('aten::leaky_relu_', 'activations'), ('aten::native_batch_norm_backward', 'normalisation'),
    ('aten::pixel_unshuffle', 'resampling'), ('Optimizer.step#LayerAdamW.step', 'optimiser'),
    ('aten::add', 'the rest'), ('aten::mmul', 'the rest')])
def test_kind_of_operation(operation, wanted):
    assert step_shares.kind(operation) == wanted


def test_shares_of_a_step():
    "All of a step's time is somewhere; a transformer multiplies, and here nothing else is as dear"
    spec = RunSpec(data='synthetic', limit=400, arch='vit_tiny_patch16_224', img_size=32, bs=16)
    learn = build_learner(spec, load_faces(spec))
    shares = step_shares.shares(learn, 1)
    assert sum(shares.values()) == pytest.approx(100)
    assert list(shares) == [*step_shares.KINDS, 'the rest']
    assert shares['matrix products'] > 5 and shares['optimiser'] > 0


def test_pictures_of_the_usual_pipeline(tmp_path):
    "The files hold the very faces, so that both trainings see the same"
    faces = synthetic(40).train[torch.arange(4)]
    files = usual.write_pictures(faces, tmp_path, faces.images.shape[-1])
    pictures = usual.Pictures(files, faces.labels.tolist(), PILToTensor())
    for i, image in enumerate(faces.images):
        picture, label = pictures[i]
        assert torch.equal(picture, image.expand(3, -1, -1)) and label == faces.labels[i]


def test_usual_loop_learns_and_counts():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    data = TensorDataset(torch.randn(32, 1, 2, 2), torch.arange(32) % 2)
    before = model[1].weight.clone()
    loader = DataLoader(data, 8)
    speed = usual.train(model, loader, torch.optim.SGD(model.parameters(), .1), batches=3)
    assert speed > 0 and not torch.equal(model[1].weight, before)
