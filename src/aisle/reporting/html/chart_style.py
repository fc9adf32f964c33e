"""The style of all charts."""

from __future__ import annotations

from typing import Any

from aisle.reporting.html.fonts import FIRST_FONT
from aisle.reporting.html.palette import COLOURS

__all__ = ["STYLE"]

STYLE: dict[Any, Any] = {
    "font.family": FIRST_FONT,
    "font.size": 9,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 2.4,
    "svg.fonttype": "none",
}
"""Settings of matplotlib."""
