"""Building blocks of tables: columns, and cells with a text and a value to sort by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from aisle.evaluation.document import Estimate
from aisle.evaluation.number_format import UNDEFINED
from aisle.reporting.html.formatting import bounds, count, figure, share, signed
from aisle.reporting.html.interval_plots import IntervalPlot

__all__ = [
    "Cell",
    "Column",
    "ColumnOf",
    "Row",
    "Table",
    "best_value",
    "count_cell",
    "difference_cell",
    "estimate_cell",
    "figure_cell",
    "make_table",
    "share_cell",
    "union",
]

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column:
    """A column's heading."""

    heading: str
    number: bool = True
    """True for figures: right-aligned, sorted from the largest."""
    sortable: bool = True


@dataclass(frozen=True)
class Cell:
    """The content of a cell."""

    text: str
    sort: float | str | None = None
    """None where the figure is undefined; rows without a value stay at the end."""
    small: str = ""
    """A second line: an interval, or the role of a system."""
    strong: bool = False
    colour: str | None = None
    """A key of the palette: the system's colour, shown as a swatch."""
    plot: IntervalPlot | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells below headings; the first cell of a row names it."""

    name: str
    """Unique on the page; letters, digits and dashes."""
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


ColumnOf = tuple[Column, Callable[[Row], Cell]]
"""A heading, and the function that makes the cell of this column from a row's source."""


def make_table(
    name: str, caption: str, rows: Sequence[Row], columns: Sequence[ColumnOf[Row]], note: str = ""
) -> Table:
    """Return a table with a row per element of `rows`."""
    return Table(
        name,
        caption,
        tuple(column for column, _ in columns),
        tuple(tuple(cell(row) for _, cell in columns) for row in rows),
        note,
    )


def figure_cell(value: float | None) -> Cell:
    """Return a figure."""
    return Cell(figure(value), value)


def count_cell(value: int) -> Cell:
    """Return a whole number."""
    return Cell(count(value), value)


def estimate_cell(estimate: Estimate | None, best: float | None) -> Cell:
    """Return the figure with its interval below; bold if it equals `best` as displayed."""
    if estimate is None or estimate.value is None:
        return Cell(UNDEFINED)
    strong = best is not None and round(estimate.value, 3) == best
    return Cell(figure(estimate.value), estimate.value, bounds(estimate.low, estimate.high), strong)


def difference_cell(difference: Estimate, *, strong: bool = False) -> Cell:
    """Return a signed figure with its interval below."""
    interval = bounds(difference.low, difference.high, sign=True)
    return Cell(signed(difference.value), difference.value, interval, strong)


def share_cell(value: float | None) -> Cell:
    """Return a share in [0, 1] as a percentage."""
    return Cell(UNDEFINED if value is None else share(value), value)


def best_value(estimates: Iterable[Estimate | None]) -> float | None:
    """Return the largest value as displayed; None if there is only one, or all are equal."""
    values = {
        round(estimate.value, 3)
        for estimate in estimates
        if estimate is not None and estimate.value is not None
    }
    return max(values) if len(values) > 1 else None


def union(mappings: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return the keys of all mappings, in the order of their first occurrence."""
    return tuple(dict.fromkeys(key for mapping in mappings for key in mapping))
