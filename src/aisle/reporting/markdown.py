"""Markdown from text that others wrote: tables, and words without a meaning of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["escaped", "image", "table"]

_ORDERS = re.compile(r"[\\`*_~$#]")
"""Characters that make code, emphasis, formulas or headings."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of one-line Markdown cells; bars in them stay bars."""
    lines = [_cells(header), ["---"] * len(header), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Return Markdown that shows `text` on one line as it is; bars are left to `table`.

    Brackets stay where they cannot make a link, so that intervals can be read in the source too.
    """
    one_line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _ORDERS.sub(r"\\\g<0>", one_line).replace("](", r"]\(")


def image(alt: str, path: str) -> str:
    """Return an image with its text for those who do not see it.

    Args:
        alt: plain text.
        path: relative, of letters, digits, dashes, underscores and slashes.
    """
    return f"![{re.sub(r'[][]', _escape, escaped(alt))}]({path})"


def _escape(found: re.Match[str]) -> str:
    return f"\\{found[0]}"


def _cells(row: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in row]
