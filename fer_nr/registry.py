"""Parts of a run that register themselves

A data set, a loss, an up-scaler, a method is one definition with one line that names it.

    @part('loss', 'fpdls', uses=('prior', 'alpha', 'gamma'))
    class FPDLS(nn.Module): …

From the registry follow the choices of a run's fields, the errors with near names, what decides a
run's id, and the tables on the site.
"""
import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

__all__ = ['Part', 'part', 'parts', 'find_part', 'unknown', 'near_names']


@dataclass(frozen=True)
class Part:
    "One registered part"
    kind: str  # the field of a run that chooses it: 'data', 'loss', 'up', 'method', …
    name: str  # the value of that field
    build: Callable  # the class or function that makes it
    uses: tuple[str, ...] = ()  # fields that this part looks at and others of its kind may not
    facts: dict = field(default_factory=dict)  # anything else that a user of the kind wants to know

    @property
    def about(self) -> str:
        "The first line of its docstring"
        return (self.facts.get('about') or self.build.__doc__ or '').strip().split('\n')[0]


_PARTS: dict[str, dict[str, Part]] = {}


def same_definition(one, other) -> bool:
    "Are two classes or functions the same one, perhaps run again in a notebook that defines it?"
    modules = {one.__module__, other.__module__}
    return one.__qualname__ == other.__qualname__ and (len(modules) == 1 or '__main__' in modules)


def part(kind: str, name: str, uses: Iterable[str] = (), **facts) -> Callable:
    "Registers the class or function below it as `name`; raises `ValueError` for a taken name"
    def register(build):
        known = _PARTS.setdefault(kind, {})
        other = known.get(name)
        if other and not same_definition(other.build, build):
            taken = f'{other.build.__module__}.{other.build.__qualname__}'
            raise ValueError(f'{kind} {name!r} is registered already, as {taken}')
        known[name] = Part(kind, name, build, tuple(uses), facts)
        return build
    return register


def parts(kind: str) -> dict[str, Part]:
    "All parts of a kind by name, in the order in which they were registered"
    return dict(_PARTS.get(kind, {}))


def near_names(value, known: Iterable[str], most: int = 4) -> list[str]:
    "Those of `known` that begin most like `value`: long names that were cut short, or misspelt"
    word = str(value).lower()

    def likeness(name):
        return difflib.SequenceMatcher(None, word, name[:len(word) + 1].lower()).ratio()
    near = sorted(known, key=lambda name: (-likeness(name), len(name)))[:most]
    return [name for name in near if likeness(name) > .6]


def unknown(what: str, value, known: Iterable[str]) -> str:
    "The line that says that `value` is none of the `known` names, with the nearest of them"
    known = [str(name) for name in known if str(name)]
    near = difflib.get_close_matches(str(value), known, 1) or near_names(value, known, 1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    return f"{what} {value!r} is unknown: expected one of {', '.join(known)}{hint}"


def find_part(kind: str, name: str) -> Part:
    "The part of that kind and name; raises `ValueError` with the nearest name"
    known = parts(kind)
    if name not in known:
        raise ValueError(unknown(kind, name, known))
    return known[name]
