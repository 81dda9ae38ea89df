"""A function and the comments on its parameters are also a command of the terminal.

fastcore's `call_parse` does this too, but its versions spell one flag differently (`--data_path`,
`--data-path`): here each flag has both spellings. Options may stand anywhere among the other words,
and errors are one line.
"""
import argparse
import sys
from collections.abc import Callable
from functools import wraps
from inspect import Parameter
from pathlib import Path
from typing import Literal, get_args, get_origin

from fastcore.docments import docments

from .text import one_line

__all__ = ['parser', 'command', 'one_line', 'warn', 'fail']


def warn(error):
    "Say on one line what is wrong, and go on"
    print(f'fer_nr: {one_line(error)}', file=sys.stderr)


def fail(error, code: int = 1):
    "End a command with one line"
    warn(error)
    raise SystemExit(code)


class _Parser(argparse.ArgumentParser):
    "Says what is wrong in one line; a flag that it does not know may be meant as a parameter"
    pairs = True

    def error(self, message):
        fail(f'{message} (see {self.prog} --help)', 2)

    def parse(self, args=None) -> dict:
        "Parameter -> value, wherever the options stand"
        known, rest = self.parse_known_intermixed_args(args)
        for word in rest:
            if self.pairs and word.startswith('--'):
                name, _, value = word[2:].partition('=')
                self.error(f"unrecognized arguments: {word}; if it is a parameter, write "
                           f"{name}={value or 'VALUE'}")
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return vars(known)


def _add(parser, name, parameter):
    "Add a function's parameter, with its docment as help"
    required, kind = parameter.default is Parameter.empty, parameter.anno
    settings = dict(help=(parameter.docment or '').replace('%', '%%'))
    if kind is list:
        count = dict(nargs='+') if required else dict(nargs='*', default=parameter.default)
        return parser.add_argument(name, **settings, **count)
    if required:
        return parser.add_argument(name, type=kind, **settings)
    settings |= dict(dest=name, default=parameter.default)
    if kind is bool:
        settings['action'] = 'store_true'
    elif get_origin(kind) is Literal:
        settings['choices'] = get_args(kind)
    else:
        settings |= dict(type=kind, metavar=kind.__name__)
    if parameter.default and kind is not bool:
        settings['help'] += ' (default: %(default)s)'
    spellings = dict.fromkeys(['--' + name, '--' + name.replace('_', '-')])
    parser.add_argument(*spellings, **settings)


def _layout(prog):
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=110)


def parser(func: Callable, more: str = '', pairs: bool = True) -> argparse.ArgumentParser:
    """The command line of `func`, with annotated parameters and docments; `more` is under its help.

    A `list` is positional, a `bool` is a switch, a `Literal` has choices, everything else is a flag
    with a value. `pairs`: does it take name=value, which somebody may write as a flag?
    """
    line = _Parser(func.__name__, description=func.__doc__, epilog=more, formatter_class=_layout,
                   allow_abbrev=False)
    line.pairs = pairs
    for name, parameter in docments(func, full=True, returns=False).items():
        _add(line, name, parameter)
    return line


def command(func: Callable | None = None, more: Callable = str, pairs: bool = True) -> Callable:
    """Decorator: `func` is also a command; `more` and `pairs` are as for `parser`.

    It reads the command line where the program is named like it and it was called without
    arguments, as `console_scripts` do; any other call is a plain call.
    """
    if func is None:
        return lambda func: command(func, more, pairs)

    @wraps(func)
    def run(*args, **kwargs):
        if args or kwargs or Path(sys.argv[0]).stem != func.__name__:
            return func(*args, **kwargs)
        func(**parser(func, more(), pairs).parse())
    return run
