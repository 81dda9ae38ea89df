"""One reader of parameters, by the type of the field that a value is for.

It is the same for a command line, YAML, JSON, papermill and Python. Numbers are written as in
Python (`5e-4`, `1E-3`, `1_000`), also in YAML; whole numbers are whole; true, false, yes, no, on,
off, 1 and 0 are truth values; text stays text. A field says what it holds by `setting`.
"""
import dataclasses
import math
import os
import re
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path

import yaml

from .files import read_text
from .registry import parts, unknown

__all__ = ['setting', 'in_range', 'Settings', 'read_value', 'choices_of', 'help_of', 'plain_value',
           'parse_yaml', 'read_yaml', 'weight_folders']

LARGEST_FILE = 100_000  # characters of a YAML file
MOST_VALUES = 10_000  # values in it, those behind aliases counted each time


def setting(default, about: str, kind: str = '', words: tuple = (), range: str = '',
            file: bool = False, check: Callable | None = None, if_used: bool = False):
    """A field of a dataclass that `Settings` reads; `about` is its help.

    A text may be one of `words`, or the name of a part of `kind`; with `file` also a file. A number
    lies in `range`, written as in mathematics: '[0, 1)'. `check` is called with the value and
    raises `ValueError`. With `if_used` the field counts only where a chosen part uses it.
    """
    metadata = dict(about=about, kind=kind, words=words, range=range, file=file, check=check,
                    if_used=if_used)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def in_range(value: float, range: str) -> bool:
    "Whether a number lies in an interval written as in mathematics: '[0, 1)' holds 0 and not 1"
    low, high = (float(end) for end in range[1:-1].split(','))
    above = low <= value if range[0] == '[' else low < value
    below = value <= high if range[-1] == ']' else value < high
    return above and below


def choices_of(field: dataclasses.Field) -> tuple[str, ...]:
    "The words that a field of text takes; none: any text"
    return (*field.metadata['words'], *parts(field.metadata['kind']))


def help_of(field: dataclasses.Field) -> str:
    "The help of a field: what it is, and its choices or its range"
    about, range = field.metadata['about'], field.metadata['range']
    if range:
        return f'{about}, in {range}'
    choices = ', '.join(name for name in choices_of(field) if name)
    if field.metadata['file']:
        choices += ', or a weight file'
    return f'{about}: {choices}' if choices else about


class Settings:
    "Base of a frozen dataclass of `setting`s: each value is read by its field's type, and checked"

    def __post_init__(self):
        problems = []
        for field in dataclasses.fields(self):
            try:
                object.__setattr__(self, field.name, read_value(field, getattr(self, field.name)))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError('; '.join(problems))


def read_value(field: dataclasses.Field, value):
    """The value of a field, in its type; raises `ValueError` in one line with the field's name.

    Nothing (None, or an empty text) is the default of a text or a mapping. A number is None only
    where that is its default.
    """
    default = field.default_factory() if field.default is dataclasses.MISSING else field.default
    empty = value is None or isinstance(value, str) and not value.strip()
    if empty and (field.type in (str, dict) or default is value is None):
        return default
    if default is None and _is_none(field, value):
        return None
    reader, expected = _READERS[field.type]
    try:
        value = reader(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise ValueError(f'{field.name} is {_shown(value)}: expected {expected}') from None
    if field.metadata['range'] and not in_range(value, field.metadata['range']):
        raise ValueError(f"{field.name} is {value}: expected a number in {field.metadata['range']}")
    if field.type is str:
        _check_word(field, value)
    if field.metadata['check']:
        field.metadata['check'](value)
    return value


def _is_none(field, value):
    "Whether a text says None; 'none' itself may be the name of a part"
    if not isinstance(value, str) or value in choices_of(field):
        return False
    return value.strip().lower() in ('none', 'null', '~')


def _check_word(field, value):
    "Refuse a text that is none of the field's words; raises `ValueError` with the nearest one"
    choices = choices_of(field)
    if not choices or value in choices:
        return
    if not field.metadata['file']:
        raise ValueError(unknown(field.name, value, choices))
    is_name = not Path(value).suffix and Path(value).name == value
    if is_name and not any(Path(folder, value).is_file() for folder in weight_folders()):
        words = [name for name in choices if name]
        raise ValueError(unknown(field.name, value, [*words, 'a weight file']))


def weight_folders() -> list[str]:
    "Where weight files are looked for: here, and in the environment's FER_NR_WEIGHTS"
    return ['.', os.environ.get('FER_NR_WEIGHTS', '.')]


def _as_float(value):
    if isinstance(value, bool) or not isinstance(value, (str, Real)):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number + 0.  # -0 is 0


def _as_int(value):
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r'\s*[+-]?\d+\s*', value):
        return int(value)
    number = _as_float(value)
    if number != int(number):
        raise ValueError
    return int(number)


_TRUTH = (dict.fromkeys(('true', 'yes', 'on', '1'), True)
          | dict.fromkeys(('false', 'no', 'off', '0'), False))


def _as_bool(value):
    if isinstance(value, str):
        return _known(_TRUTH, value.strip().lower())
    if not isinstance(value, Integral):
        raise TypeError
    return _known({0: False, 1: True}, int(value))


def _known(values, key):
    if key not in values:
        raise ValueError
    return values[key]


def _as_text(value):
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError
    return str(value)


def _as_mapping(value):
    if isinstance(value, str):
        value = parse_yaml(value)
    if not isinstance(value, dict):
        raise TypeError
    mapping = plain_value(value)
    if not all(name.isidentifier() for name in mapping):
        raise ValueError
    return mapping


_READERS = {
    float: (_as_float, 'a number'),
    int: (_as_int, 'a whole number'),
    bool: (_as_bool, 'true or false'),
    str: (_as_text, 'text'),
    dict: (_as_mapping, 'a mapping from names to values, such as {depth: 2}'),
}


def _shown(value):
    "A value as Python writes it, cut after 80 characters"
    text = repr(str(value) if isinstance(value, str) else value)
    return text if len(text) <= 80 else f'{text[:80]}…'


class Plain(str):
    "A word of YAML without quotes: what it is follows from the field that it is for"


def plain_value(value):
    """A value of which no field says the type; raises `ValueError` for what JSON cannot hold.

    Words of YAML without quotes become numbers, truth values or None where they look like it; whole
    numbers are whole, tuples are lists.
    """
    if isinstance(value, dict):
        return {str(name): plain_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item) for item in value]
    if isinstance(value, Plain):
        return _guess(value)
    if value is None or isinstance(value, (bool, str)):
        return value
    return _as_number(value)


def _as_number(value):
    "A number, whole where it can be: 4.0 and 4 decide the same"
    number = _as_float(value)
    return int(number) if number == int(number) else number


def _guess(word):
    "What an unquoted word of YAML says by itself"
    if word == '':
        raise ValueError('expected a value')
    if word.lower() in ('true', 'false'):
        return word.lower() == 'true'
    if word.lower() in ('null', 'none', '~'):
        return None
    try:
        return _as_number(word)
    except ValueError:
        return str(word)


class _Loader(yaml.SafeLoader):
    "YAML whose scalars stay text, as `Plain` where they have no quotes"
    yaml_implicit_resolvers = {'<': yaml.SafeLoader.yaml_implicit_resolvers['<']}  # `<<: *base`

    def construct_scalar(self, node):
        text = super().construct_scalar(node)
        return Plain(text) if node.style is None else text


_Loader.add_constructor('tag:yaml.org,2002:str', _Loader.construct_scalar)


def _count(node, counted):
    "How many values a node holds, behind aliases each time; refuses a key that is there twice"
    if counted.get(id(node), 0) is None:
        raise ValueError(f'line {node.start_mark.line + 1} refers to itself')
    if id(node) not in counted:
        counted[id(node)] = None
        children = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            _check_keys(node)
            children = [child for pair in node.value for child in pair]
        counted[id(node)] = 1 + sum(_count(child, counted) for child in children)
    return counted[id(node)]


def _check_keys(node):
    "Refuse a mapping in which a name stands twice, or that has something else than names"
    seen = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f'line {line}: expected a name, found a {key.id}')
        if key.value in seen:
            first = seen[key.value]
            raise ValueError(f'line {line}: {key.value} is there twice, first in line {first}')
        seen[key.value] = line


def parse_yaml(text: str):
    "What YAML says, unquoted words as `Plain`; raises `ValueError` in one line, with its place"
    if len(text) > LARGEST_FILE:
        raise ValueError(f'{len(text):,} characters: expected at most {LARGEST_FILE:,}')
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if (count := _count(node, {})) > MOST_VALUES:
            raise ValueError(f'{count:,} values: expected at most {MOST_VALUES:,}')
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        where = f'line {mark.line + 1}: ' if mark else ''
        problem = getattr(error, 'problem', None) or str(error).splitlines()[0]
        raise ValueError(f"not YAML: {where}{' '.join(problem.split())}") from None
    except RecursionError:
        raise ValueError('nested too deep') from None


def read_yaml(path: Path | str) -> dict:
    "The mapping in a YAML or JSON file; raises `FileNotFoundError` or `ValueError`, with the line"
    text = read_text(path, 'a YAML file')
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    if not isinstance(content, dict):
        found = 'text' if isinstance(content, str) else type(content).__name__
        found = 'nothing' if content is None else found
        raise ValueError(f'{path}: expected a mapping from names to values, found {found}')
    return content
