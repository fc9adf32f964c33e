"""Read the counts of a row of clicks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aisle.data.pair_cells import read_number
from aisle.data.rows import Problem, Row, require_columns

__all__ = ["ClickColumns"]

MOST_COUNT = 1e15
"""Largest count of a row; sums of many such counts, and their squares, are finite."""
LEAST_IMPRESSIONS = 1e-6
"""Fewest impressions, which may be fractions, such as weights of sessions."""
MOST_POSITION = 1_000_000


@dataclass(frozen=True)
class ClickColumns:
    """Columns of the counts in a row: of a query with a product, or of an event or a day of it."""

    clicks: str
    impressions: str
    purchases: str | None = None
    position: str | None = None

    @property
    def counted(self) -> list[str]:
        """Columns of counts."""
        return [self.clicks, self.impressions, *([] if self.purchases is None else [self.purchases])]

    def check(self, row: Row) -> None:
        """Refuse a source that lacks a column.

        Raises:
            DataError: A column is missing.
        """
        require_columns(row, self.counted, flag="--label_from")
        require_columns(row, [self.position], flag="--position_column")

    def read(self, values: Mapping[str, object]) -> tuple[float, float, float, int] | Problem:
        """Return clicks, impressions, purchases and position of a row, or the problem with them."""
        counts: dict[str, float] = {}
        for column in self.counted:
            count = _count(column, values.get(column))
            if isinstance(count, Problem):
                return count
            counts[column] = count
        impressions = counts[self.impressions]
        if not impressions:
            return Problem(
                f"{self.impressions} is 0; a product that was not shown cannot be clicked", impressions
            )
        if impressions < LEAST_IMPRESSIONS:
            return Problem(f"{self.impressions} is less than {LEAST_IMPRESSIONS:g}", impressions)
        for column, count in counts.items():
            if count > impressions:
                return Problem(f"{column} is more than {self.impressions} ({impressions:g})", count)
        position = 1 if self.position is None else _position(self.position, values.get(self.position))
        if isinstance(position, Problem):
            return position
        return counts[self.clicks], impressions, counts.get(self.purchases or "", 0.0), position


def _count(column: str, value: object) -> float | Problem:
    count = read_number(column, value)
    if isinstance(count, Problem):
        return count
    if count < 0:
        return Problem(f"{column} is negative", value)
    return count if count <= MOST_COUNT else Problem(f"{column} is more than {MOST_COUNT:g}", value)


def _position(column: str, value: object) -> int | Problem:
    position = read_number(column, value)
    if isinstance(position, Problem):
        return position
    if position < 1 or position != int(position):
        return Problem(f"{column} is not a whole number from 1 (the top)", value)
    if position > MOST_POSITION:
        return Problem(f"{column} is more than {MOST_POSITION:,}, which is no position in a list", value)
    return int(position)
