"""Numbers in sentences and tables."""

from __future__ import annotations

__all__ = ["UNDEFINED", "counted"]

UNDEFINED = "\u2013"
"""Dash in place of an undefined figure."""


def counted(value: int, one: str, many: str | None = None) -> str:
    """Return "1 query", "1,234 queries"; without `many` the plural is `one` with an s."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"
