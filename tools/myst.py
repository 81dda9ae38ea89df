"""From nbdev to Sphinx: what nbdev's processors hand over for Quarto becomes what MyST-NB reads

nbdev renders a site through Quarto, a program of its own that `pip` cannot install. Everything
before that last step is plain Python: nbdev's processors link names in backticks, drop hidden
cells, and put each exported definition's signature in its place. `ToMyst` comes last in their
chain (`procs` in settings.ini); `Entry` prints a definition (`renderer`).
"""
import html
import re
import textwrap
from importlib import import_module
from inspect import Parameter, signature
from itertools import groupby
from pathlib import Path

from fastcore.docments import docments, qual_name
from fastcore.xtras import dict2obj
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, _nbpath2html
from nbdev.process import Processor
from nbdev.showdoc import BasicMarkdownRenderer

OPTION = re.compile(r'^#\|\s*([\w-]+):\s*(.*)\n?', re.M)
TAGS = {('echo', 'false'): 'remove-input', ('output', 'false'): 'remove-output',
        ('include', 'false'): 'remove-cell', ('code-fold', 'true'): 'hide-input',
        ('code-fold', 'show'): 'hide-input'}


def cell_options(source: str) -> tuple[str, list[str], str]:
    """Quarto's options at the top of a cell, as MyST-NB's tags

    Gives the code without the options, the tags, and the text for who cannot see the picture.
    """
    options = {name: value.strip().strip('"') for name, value in OPTION.findall(source)}
    tags = [TAGS[option] for option in options.items() if option in TAGS]
    return OPTION.sub('', source), tags, options.get('fig-alt', '')


# Definitions

def defined(name: str):
    "What the package exports under a qualified name, or None"
    found = NbdevLookup().syms.get(name)
    if not isinstance(found, tuple):
        return None
    here = import_module(found[1].removesuffix('.py').replace('/', '.'))
    for part in name.split('.'):
        here = getattr(here, part)
    return here


def exported(symbol):
    """The same definition in the exported module, or `symbol` where there is none

    nbdev runs the exported cells again; a class made in a cell has no file to read comments from.
    """
    found = defined(qual_name(symbol))
    return symbol if found is None else found


def inherits_init(symbol) -> bool:
    "Is it a class whose `__init__` comes from a library, whose documentation has the parameters?"
    if not isinstance(symbol, type):
        return False
    owner = next(base for base in symbol.__mro__ if '__init__' in vars(base))
    return owner is not object and owner.__module__.split('.')[0] != get_config().lib_name


class Entry(BasicMarkdownRenderer):
    "What `show_doc` prints on the site: the signature with a comment for each parameter"

    def __init__(self, symbol, **kwargs):
        super().__init__(exported(symbol), **kwargs)
        self.fn = self.nm  # nbdev finds the line of a name without its module
        if callable(self.sym) and not inherits_init(self.sym):
            self.complete()

    def complete(self):
        "Comments on `**kwargs` too, and no type that was only guessed from a default"
        documented = docments(self.sym, full=True, args_kwargs=True)
        written = signature(self.sym).parameters
        for name, parameter in self.dm.dm.items():
            if name in documented:
                parameter['docment'] = documented[name]['docment']
            if name in written and written[name].annotation is Parameter.empty:
                parameter['anno'] = Parameter.empty

    def _repr_markdown_(self):
        text = super()._repr_markdown_()
        if not isinstance(self.sym, type):
            return text
        if inherits_init(self.sym):
            bases = [base.__name__ for base in self.sym.__bases__ if base.__name__[0] != '_']
            short = f"```python\nclass {self.nm}({', '.join(bases)})\n```"
            return re.sub(r'^```python.*?^```', short, text, count=1, flags=re.M | re.S)
        as_def = re.compile(r'^```python\ndef (.*?)^\)(?:->None)?:', re.M | re.S)
        return as_def.sub(r'```python\nclass \1)', text.replace('<factory>', '{}'), count=1)


def shown_name(cell) -> str:
    "The name that a `show_doc` cell shows, or ''"
    found = re.search(r'show_doc\(([\w.]+)', cell.source)
    return found[1] if found else ''


def is_mute(cell) -> bool:
    "Does it show a method that says nothing of its own, such as fastai's `before_fit`?"
    name = shown_name(cell)
    return '.' in name and not getattr(defined(name), '__doc__', None)


def module_line(cell) -> int:
    "The line of the definition that a `show_doc` cell shows, in its module"
    address = NbdevLookup().code(shown_name(cell)) or ''
    line = address.rpartition('#L')[2]
    return int(line) if line.isdigit() else 0


def in_order(cells: list, line=module_line) -> list:
    "Neighbouring entries in the order of their definitions; nbdev shows the last of a cell first"
    ordered = []
    for is_entry, run in groupby(cells, lambda cell: bool(cell.get('has_sd'))):
        ordered += sorted(run, key=line) if is_entry else run
    return ordered


# Text and links

SHOWN = re.compile(r'^---\n\s*(?:(\[source\].*)\n\s*)?(#+) (\S+)$', re.M)  # how an entry begins
CALLOUT = re.compile(r'^(:{3,})\s*\{\.callout-(\w+)[^}]*\}', re.M)
FENCE = re.compile(r'(^```.*?^```)', re.M | re.S)
NOTEBOOK_LINK = re.compile(r'(\]\((?!\w+:)[^)\s]*?)([^/)\s]+\.ipynb)')


def page_name(notebook) -> str:
    "The name of a notebook's page without suffix: nbdev leaves out the number"
    return _nbpath2html(Path(notebook)).stem


def to_myst(
    text: str,  # Markdown as nbdev hands it over
    page: str,  # name of the page that it stands on
    site: str,  # address of the published site, as in nbdev's links
) -> str:
    """Markdown as MyST reads it: definitions become targets, links and callouts are respelled

    Each definition has a target of its own, `data.faceset`, so that Sphinx finds links on its own
    disk and complains about one that leads nowhere. The plain anchor stays for other sites' links.
    """
    def target(match):
        source, level, name = match.groups()
        anchor = name.lower()
        return f'({page}.{anchor})=\n{level} `{name}`\n\n<a id="{anchor}"></a>{source or ""}\n'

    def without_links(match):  # nbdev links names in signatures too, where nothing renders them
        return re.sub(r'\[(`[^`]+`)\]\([^)]*\)', r'\1', match[0])

    text = SHOWN.sub(target, text)
    on_site = re.escape(site) + r'/(?:[\w-]+/)*([\w-]+)\.html#([\w.]+)'
    text = re.sub(on_site, lambda match: f'#{match[1]}.{match[2]}'.lower(), text)
    text = FENCE.sub(without_links, text)
    text = NOTEBOOK_LINK.sub(lambda match: f'{match[1]}{page_name(match[2])}.ipynb', text)
    text = CALLOUT.sub(r'\1{\2}', text)
    return re.sub(r'\{target="_blank"[^}]*\}', '{.source}', text)


TARGET_LINK = re.compile(r'\[([^\]]+)\]\(#([\w.]+\.\w+)\)')
CAPITALS = re.compile(r'(?<![\[`\w])`([A-Z]+)`(?![\]`])')


def resolve(
    text: str,  # Markdown from `to_myst`
    targets: set[str],  # all targets of the site
) -> str:
    """Markdown whose links arrive

    nbdev links every name that a module defines. A method without an entry leads to its class, a
    private function nowhere. Constants, which nbdev does not link, get their link here.
    """
    constants = {}
    for target in targets:
        if target.startswith('constant.'):
            constants[target.rpartition('.')[2].upper()] = target

    def arrive(match):
        words, target = match.groups()
        for candidate in (target, target.rpartition('.')[0]):
            if candidate in targets:
                return f'[{words}](#{candidate})'
        return words

    def link_constant(match):
        target = constants.get(match[1])
        return f'[{match[0]}](#{target})' if target else match[0]

    parts = FENCE.split(TARGET_LINK.sub(arrive, text))
    parts[::2] = [CAPITALS.sub(link_constant, part) for part in parts[::2]]  # outside of code
    return ''.join(parts)


# Widgets and tables

WIDGET_VIEW = 'application/vnd.jupyter.widget-view+json'
WIDGET_STATE = 'application/vnd.jupyter.widget-state+json'


def last_shown(states: dict, widget: str) -> list:
    "What a widget and those inside it last showed: all that a static page can hold of it"
    state = states.get(widget, {}).get('state', {})
    outputs = list(state.get('outputs', []))
    for child in state.get('children', []):
        outputs += last_shown(states, child.removeprefix('IPY_MODEL_'))
    return outputs


NUMBER = re.compile(r'[-−+±~≈<>]?\s*[\d.(\[]|[-–—]?$|(?i:nan|none|inf|n/?a)$')
ROW = re.compile(r'<tr.*?</tr>', re.S)
CELL = re.compile(r'<t[dh]\b.*?</t[dh]>', re.S)
DATA_CELL = re.compile(r'<td\b.*?</td>', re.S)


def cell_text(cell: str) -> str:
    "The words in a cell of an HTML table"
    return html.unescape(re.sub('<.*?>', '', cell)).strip()


def one_header(table: str) -> str:
    "A table of pandas' without the second row of its header, if that only names the index"
    rows = ROW.findall(table.partition('</thead>')[0])
    if len(rows) != 2:
        return table
    upper, lower = CELL.findall(rows[0]), CELL.findall(rows[1])
    both = list(zip(upper, lower))
    if len(upper) != len(lower) or any(cell_text(a) and cell_text(b) for a, b in both):
        return table
    heads = iter([b if cell_text(b) else a for a, b in both])
    merged = CELL.sub(lambda match: next(heads), rows[0])
    return table.replace(rows[1], '', 1).replace(rows[0], merged, 1)


def with_class(cell: str) -> str:
    "A cell with the class `words`"
    if 'class="' in cell.partition('>')[0]:
        return cell.replace('class="', 'class="words ', 1)
    return re.sub(r'^<t[dh]', r'\g<0> class="words"', cell)


def tidy_table(table: str) -> str:
    """HTML of a table of pandas' with one header row, and the class `words` on columns of words

    Numbers are compared from the right, words are read from the left. Columns are counted from the
    right, where cells that span several rows do not disturb. Other HTML is left as it is.
    """
    table = table.replace('<table id="T_', '<table class="dataframe" id="T_')  # a styled one
    if 'class="dataframe' not in table:
        return table
    table = one_header(table)
    words = set()
    for row in ROW.findall(table):
        for column, cell in enumerate(reversed(DATA_CELL.findall(row))):
            if not NUMBER.match(cell_text(cell)):
                words.add(column)

    def mark(match):
        head, *cells = re.split(r'(?=<t[dh]\b)', match[0])
        for column in words:
            if column < len(cells):
                cells[-1 - column] = with_class(cells[-1 - column])
        return head + ''.join(cells)

    return ROW.sub(mark, table)


# The processor

class ToMyst(Processor):
    "nbdev's last processor: what it hands over for Quarto becomes what MyST-NB reads"

    def begin(self):
        config = get_config()
        self.site = config.doc_host.rstrip('/') + config.doc_baseurl.rstrip('/')
        self.page = page_name(self.nb.path_)
        self.nb.cells = in_order(self.nb.cells)
        widgets = self.nb.metadata.pop('widgets', None) or {}
        self.states = widgets.get(WIDGET_STATE, {}).get('state', {})

    def cell(self, cell):
        if cell.cell_type == 'raw':
            self.prose(cell, self.title())
        elif cell.cell_type == 'markdown':
            self.prose(cell, '' if 'AUTOGENERATED' in cell.source else cell.source)
        elif '#| output: asis' in cell.source:
            self.prose(cell, '' if is_mute(cell) else printed_markdown(cell))
        else:
            self.code(cell)

    def title(self) -> str:
        "H1 and lead paragraph"
        matter = self.nb.frontmatter_
        lead = f"{{.lead}}\n{matter['description']}" if 'description' in matter else ''
        return f"# {matter.get('title', self.page)}\n\n{lead}"

    def prose(self, cell, text: str):
        "Make `cell` a Markdown cell with `text`; an empty one goes"
        for key in ('outputs', 'execution_count', 'has_sd'):
            cell.pop(key, None)
        cell.cell_type, cell.metadata = 'markdown', {}
        cell.source = to_myst(text, self.page, self.site) or None

    def code(self, cell):
        "Tags for options, an alternative text, pictures for widgets, tidy tables"
        cell.source, tags, alt = cell_options(cell.source)
        last_line = cell.source.strip().rpartition('\n')[2].strip(' ;')
        alt = alt or 'Picture: ' + textwrap.shorten(last_line, 100)
        shown_as = dict(code_prompt_show='Show the code', image=dict(alt=alt))
        cell.metadata = dict(tags=tags, mystnb=shown_as)
        outputs = []
        for output in cell.get('outputs', []):
            widget = output.get('data', {}).get(WIDGET_VIEW, {}).get('model_id')
            shown = last_shown(self.states, widget) if widget else [output]
            outputs += dict2obj(shown, list_func=list)
        for output in outputs:
            if 'text/html' in output.get('data', {}):
                output['data']['text/html'] = tidy_table(''.join(output['data']['text/html']))
        cell.outputs = outputs


def printed_markdown(cell) -> str:
    "The Markdown that a cell has printed"
    texts = [output.data.get('text/markdown', '') for output in cell.outputs if 'data' in output]
    return ''.join(''.join(text) for text in texts)
