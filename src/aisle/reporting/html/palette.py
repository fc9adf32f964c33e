"""Colours of the charts, and the style of each system.

Charts are drawn in the light colours below. On the page each colour becomes the CSS variable of the same
name, which `style.css` defines for light and dark.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aisle.evaluation.document import SystemKind

__all__ = ["COLOURS", "SystemStyle", "system_styles"]

COLOURS = {
    "ink": "#1c1f23",
    "muted": "#596069",
    "rule": "#dcd9d1",
    "paper": "#fffffe",
    "bm25": "#6f7680",
    "base": "#2f66a3",
    "tuned": "#bd420d",
    "hybrid": "#2a7a4b",
    "other-1": "#7a49a8",
    "other-2": "#0c7480",
    "other-3": "#8a5d00",
    "other-4": "#b0336a",
}
"""Colour by CSS variable (without its dashes); contrast on white at least 4.5 : 1, except rule and paper."""

_OTHERS = ("other-1", "other-2", "other-3", "other-4")
_DASHES: dict[str, tuple[float, ...]] = {
    "bm25": (1, 1.5),
    "base": (5, 2),
    "tuned": (),
    "hybrid": (6, 2, 1, 2),
}
_OTHER_DASHES: tuple[tuple[float, ...], ...] = ((3, 1.5), (8, 2), (4, 1.5, 1, 1.5, 1, 1.5))
_MARKERS = {"bm25": "s", "base": "o", "tuned": "D", "hybrid": "^"}
_OTHER_MARKERS = ("v", "P", "X", "<", ">")


@dataclass(frozen=True)
class SystemStyle:
    """Style of a system; dashes and markers differ too, because colour alone does not serve everyone."""

    colour: str
    """A key of `COLOURS`."""
    dashes: tuple[float, ...]
    """Lengths of dashes and gaps in line widths; empty for a solid line."""
    marker: str

    @property
    def rgb(self) -> str:
        """Return the light colour as "#rrggbb"."""
        return COLOURS[self.colour]


def system_styles(systems: Iterable[tuple[str, SystemKind]]) -> dict[str, SystemStyle]:
    """Return a style per system: the first of a kind gets the kind's style, others share four colours.

    Args:
        systems: (name, kind) in the table's order; a repeated name keeps its style.
    """
    styles: dict[str, SystemStyle] = {}
    taken: set[str] = set()
    others = 0
    for name, kind in systems:
        if name in styles:
            continue
        if kind != "other" and kind not in taken:
            taken.add(kind)
            styles[name] = SystemStyle(kind, _DASHES[kind], _MARKERS[kind])
            continue
        styles[name] = SystemStyle(
            _OTHERS[others % len(_OTHERS)],
            _OTHER_DASHES[others % len(_OTHER_DASHES)],
            _OTHER_MARKERS[others % len(_OTHER_MARKERS)],
        )
        others += 1
    return styles
