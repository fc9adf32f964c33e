"""What tables are made of: cells with the value by which their column is sorted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aisle.evaluation.document import Estimate
from aisle.evaluation.number_format import UNDEFINED
from aisle.reporting.html.formatting import bounds, figure, share
from aisle.reporting.html.interval_plots import IntervalPlot

__all__ = ["Cell", "Column", "Table", "best_value", "estimate_cell", "share_cell", "union"]


@dataclass(frozen=True)
class Column:
    """A column's heading."""

    heading: str
    number: bool = True
    """Figures stand to the right, and sort from the largest."""
    sortable: bool = True


@dataclass(frozen=True)
class Cell:
    """What stands in one cell."""

    text: str
    sort: float | str | None = None
    """None where the figure is undefined; such rows stay at the end."""
    small: str = ""
    """A second line: the interval, or what a system is."""
    strong: bool = False
    colour: str | None = None
    """A key of the palette: the system's colour, shown as a swatch."""
    plot: IntervalPlot | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells below headings; the first cell of a row names it."""

    name: str
    """Unique on the page: letters, figures and dashes."""
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def estimate_cell(estimate: Estimate | None, best: float | None) -> Cell:
    """Return the figure with its interval below; bold where it equals `best` as shown."""
    if estimate is None or estimate.value is None:
        return Cell(UNDEFINED)
    strong = best is not None and round(estimate.value, 3) == best
    return Cell(figure(estimate.value), estimate.value, bounds(estimate.low, estimate.high), strong)


def share_cell(value: float | None) -> Cell:
    """Return a share in [0, 1] as a percentage."""
    return Cell(UNDEFINED if value is None else share(value), value)


def best_value(estimates: Iterable[Estimate | None]) -> float | None:
    """Return the largest value as shown, or None where there is only one, or all are equal."""
    values = {
        round(estimate.value, 3)
        for estimate in estimates
        if estimate is not None and estimate.value is not None
    }
    return max(values) if len(values) > 1 else None


def union(mappings: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return the keys of all mappings, in the order in which they first come."""
    return tuple(dict.fromkeys(key for mapping in mappings for key in mapping))
