"""Read the counts of a row of clicks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aisle.data.pair_cells import read_score
from aisle.data.rows import Problem, Row, require_columns

__all__ = ["ClickColumns"]


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
            count = read_score(column, values.get(column))
            if isinstance(count, Problem):
                return count
            if count < 0:
                return Problem(f"{column} is negative", values.get(column))
            counts[column] = count
        impressions = counts[self.impressions]
        if not impressions:
            return Problem(
                f"{self.impressions} is 0; a product that was not shown cannot be clicked", impressions
            )
        for column, count in counts.items():
            if count > impressions:
                return Problem(f"{column} is more than {self.impressions} ({impressions:g})", count)
        clicks, purchases = counts[self.clicks], counts.get(self.purchases or "", 0.0)
        if self.position is None:
            return clicks, impressions, purchases, 1
        position = read_score(self.position, values.get(self.position))
        if isinstance(position, Problem):
            return position
        if position < 1 or position != int(position):
            return Problem(
                f"{self.position} is not a whole number from 1 (the top)", values.get(self.position)
            )
        return clicks, impressions, purchases, int(position)
