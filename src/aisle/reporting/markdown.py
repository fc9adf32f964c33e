"""Make Markdown from untrusted text: tables, images and escaped words."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["escaped", "image", "table"]

_SPECIAL = re.compile(r"[\\`*_~$#]")
"""Characters that start code, emphasis, formulas or headings."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of one-line Markdown cells; bars in cells are escaped."""
    lines = [_cells(header), ["---"] * len(header), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Return Markdown that shows `text` literally on one line; `table` escapes bars.

    Brackets stay unless they could make a link, so that intervals stay readable in the source.
    """
    one_line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _SPECIAL.sub(r"\\\g<0>", one_line).replace("](", r"]\(")


def image(alt: str, path: str) -> str:
    """Return an image with its alternative text.

    Args:
        alt: Alternative text, plain.
        path: Relative path of letters, digits, dashes, underscores and slashes.
    """
    return f"![{re.sub(r'[][]', _escape, escaped(alt))}]({path})"


def _escape(found: re.Match[str]) -> str:
    return f"\\{found[0]}"


def _cells(row: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in row]
