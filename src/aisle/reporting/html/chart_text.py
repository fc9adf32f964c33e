"""Make untrusted text safe for charts: no missing glyphs, no text that matplotlib reads as mathematics."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from aisle.reporting.html.fonts import characters_of
from aisle.reporting.html.formatting import clipped

__all__ = ["drawable", "legend_below", "legend_rows"]

_SHORT = 18
"""Longest name that shares a legend line with another."""
_UNKNOWN = "\u25a1"


def drawable(text: str, length: int = 24) -> str:
    """Return text that matplotlib draws literally, cut to `length` characters.

    Dollars are escaped. Characters that the chart's fonts lack become squares, because matplotlib warns about
    each. A leading underscore gets a space before it, because a legend leaves out names that start with it.
    """
    known = characters_of(tuple(matplotlib.rcParams["font.family"]))
    shown = "".join(char if char in known else _UNKNOWN for char in clipped(text, length))
    shown = shown.replace("\\", "\u2216").replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def legend_rows(names: Sequence[str]) -> int:
    """Return the number of lines of a legend: two names a line if they are short."""
    return -(-len(names) // _columns(names))


def legend_below(figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """Place the legend below the axes, where it covers nothing."""
    figure.legend(handles, names, loc="outside lower left", ncols=_columns(names))


def _columns(names: Sequence[str]) -> int:
    return 2 if max(map(len, names), default=0) <= _SHORT else 1
