"""Numbers in sentences and tables."""

from __future__ import annotations

__all__ = ["UNDEFINED", "counted"]

UNDEFINED = "\u2013"
"""Stands for a figure that there is none of."""


def counted(value: int, one: str, many: str | None = None) -> str:
    """Return "1 query", "1,234 queries"; the plural is `one` with an s where `many` is not given."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"
