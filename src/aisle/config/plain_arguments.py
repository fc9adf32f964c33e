"""Read a plain command line without tyro and pydantic.

Why: their imports and the parser that tyro makes take 0.3 s, as long as everything else that `aisle query`
does before it can search. Most command lines are plain: every flag is spelt as in the help and given once,
and every value is valid. All others are left to `aisle.config.load`, which also has the messages.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Interval

from aisle.config.annotations import POSITIONAL, Help

__all__ = ["plain_settings"]

Settings = TypeVar("Settings")
Reader = Callable[[str], Any]
"""Function that returns the value of a text, or raises `_NotPlainError`."""
WHOLE = re.compile(r"[0-9]{1,9}")
DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
BOUNDS = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}
FILES = "config"
"""Setting that names a YAML file, for which the other values have to be merged."""


class _NotPlainError(Exception):
    """The command line, or the settings, need the whole parser."""


def plain_settings(settings_type: type[Settings], arguments: Sequence[str]) -> Settings | None:
    """Return the settings of a plain command line; None if the whole parser has to read it.

    Args:
        settings_type: Frozen dataclass of settings. Groups of settings, and types other than texts, numbers,
            truth values and choices, need the whole parser.
        arguments: Command line without the program's name.
    """
    if hasattr(settings_type, "complete"):  # it has further settings, see `aisle.config.load`
        return None
    try:
        hints = get_type_hints(settings_type, include_extras=True)
        flags, words = _split(hints, arguments)
        given = {name: _reader(hints[name])(text) for name, text in flags.items() if isinstance(text, str)}
        given |= {name: value for name, value in flags.items() if isinstance(value, bool)}
        if words:
            given |= _positional(hints, words)
        required = [
            field.name
            for field in dataclasses.fields(settings_type)  # type: ignore[arg-type]
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        if not given.keys() >= set(required):
            return None
        return settings_type(**given)
    except _NotPlainError:
        return None


def _split(hints: Mapping[str, Any], arguments: Sequence[str]) -> tuple[dict[str, str | bool], list[str]]:
    """Return the text of each flag, or its truth value, and the words without a flag."""
    flags: dict[str, str | bool] = {}
    words: list[str] = []
    ended = False
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            if ended:  # words in two places
                raise _NotPlainError
            words.append(argument)
            continue
        ended = bool(words)
        name, equals, text = argument.removeprefix("--").partition("=")
        name, value = _flag(hints, name, text if equals else None, rest)
        if name in flags or not argument.startswith("--"):
            raise _NotPlainError
        flags[name] = value
    return flags, words


def _flag(hints: Mapping[str, Any], name: str, text: str | None, rest: Any) -> tuple[str, str | bool]:
    """Return the setting of a flag with its text or truth value; the text may be the next argument."""
    turned = name.removeprefix("no_")
    if text is None and turned in hints and _core(hints[turned])[0] is bool:
        return turned, turned == name
    if name not in hints or name == FILES or POSITIONAL in _core(hints[name])[1]:
        raise _NotPlainError
    text = next(rest, None) if text is None else text
    if not text or text.startswith("-") or text == "None":
        raise _NotPlainError
    return name, text


def _positional(hints: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return the words as the value of the setting without a flag."""
    names = [name for name, hint in hints.items() if POSITIONAL in _core(hint)[1]]
    if len(names) != 1:
        raise _NotPlainError
    kind, _ = _core(hints[names[0]])
    if kind == tuple[str, ...]:
        return {names[0]: tuple(words)}
    if kind is str and len(words) == 1:
        return {names[0]: words[0]}
    raise _NotPlainError


def _core(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without its annotations, and the annotations."""
    return (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())


def _reader(hint: Any) -> Reader:
    """Return the function that reads a setting of a type."""
    kind, marks = _core(hint)
    bounds = [mark for mark in marks if isinstance(mark, Interval)]
    if len(bounds) + sum(isinstance(mark, Help) for mark in marks) != len(marks):
        raise _NotPlainError
    if kind in READERS:
        return lambda text: _within(READERS[kind](text), bounds)
    if bounds:
        raise _NotPlainError
    if get_origin(kind) in (Union, UnionType):
        return _either([_reader(one) for one in get_args(kind) if one is not NoneType])
    if get_origin(kind) is Literal:
        return lambda text: _matching(text in get_args(kind), text)
    raise _NotPlainError


def _either(readers: Sequence[Reader]) -> Reader:
    """Return a function that reads the first type that accepts the text."""

    def read(text: str) -> Any:
        for reader in readers:
            try:
                return reader(text)
            except _NotPlainError:
                continue
        raise _NotPlainError

    return read


def _within(value: Any, bounds: Sequence[Interval]) -> Any:
    limits = [(name, getattr(bound, name)) for bound in bounds for name in BOUNDS]
    return _matching(all(limit is None or BOUNDS[name](value, limit) for name, limit in limits), value)


def _number(kind: type[int] | type[float], form: re.Pattern[str], text: str) -> float:
    _matching(form.fullmatch(text) is not None, text)
    return kind(text)


def _matching(valid: bool, value: Any) -> Any:
    """Return a value that is valid."""
    if not valid:
        raise _NotPlainError
    return value


READERS: dict[Any, Reader] = {
    str: lambda text: text,
    int: lambda text: _number(int, WHOLE, text),
    float: lambda text: _number(float, DECIMAL, text),
}
