"""Accept any iterable of texts, ids or numbers, and read it once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, cast

from aisle.errors import AisleError

Item = TypeVar("Item")


def as_sequence(values: Iterable[Item], name: str, error: type[AisleError]) -> Sequence[Item]:
    """Return values as a sequence that can be read repeatedly: a sequence unchanged, an iterator as a list.

    Args:
        values: Iterable of items.
        name: Name of the argument, for the message.
        error: Raised for a value that would iterate over something else: a text over its letters, a mapping
            over its keys, a table over its column names.
    """
    if isinstance(values, str | bytes):
        raise error(f"{name} must be a list of {name}; found the text {values[:60]!r}: put it in a list")
    if isinstance(values, Mapping) or hasattr(values, "columns") or not isinstance(values, Iterable):
        raise error(f"{name} must be a list of {name}; found a {type(values).__name__}")
    if hasattr(values, "__len__") and hasattr(values, "__getitem__"):
        return cast(Sequence[Item], values)
    return list(values)
