"""Many texts, ids or numbers as callers give them: any iterable, read once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, cast

from aisle.errors import AisleError

Item = TypeVar("Item")


def as_sequence(values: Iterable[Item], name: str, error: type[AisleError]) -> Sequence[Item]:
    """Return values as a sequence that can be read again: as they are, or an iterator's as a list.

    Args:
        values: any iterable of items.
        name: of the argument, for the message.
        error: raised for what would be taken apart into something else: a single text into its letters, a
            mapping into its keys, a table into the names of its columns.
    """
    if isinstance(values, str | bytes):
        raise error(f"{name} must be a list of {name}; found the text {values[:60]!r}: put it in a list")
    if isinstance(values, Mapping) or hasattr(values, "columns") or not isinstance(values, Iterable):
        raise error(f"{name} must be a list of {name}; found a {type(values).__name__}")
    if hasattr(values, "__len__") and hasattr(values, "__getitem__"):
        return cast(Sequence[Item], values)
    return list(values)
