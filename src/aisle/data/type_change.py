"""Describe a column that changed its kind of values since the version before."""

from __future__ import annotations

from dataclasses import dataclass

from aisle.data.column_values import Seen
from aisle.types.columns import Kind

__all__ = ["TypeChange"]


@dataclass(frozen=True)
class TypeChange:
    """A column with another kind of values than in the version before."""

    column: str
    before: Kind | None
    now: Kind | None
    version: int
    others: int
    """Number of values of another kind than before."""
    values: int
    """Number of values that are not blank."""
    first: Seen | None
    """First value of another kind than before."""
    left_out: bool
    """Whether rows with those values were left out, so that the kind stays."""

    @property
    def few(self) -> bool:
        """Whether fewer than half of the values changed their kind."""
        return 0 < 2 * self.others < self.values

    def document(self) -> dict[str, object]:
        """Return the change for JSON output."""
        return {
            "column": self.column,
            "before": self.before,
            "now": self.now,
            "values": self.values,
            "other_values": self.others,
            "first_value": None if self.first is None else str(self.first.value),
            "first_place": None if self.first is None else self.first.place,
            "rows_left_out": self.left_out,
        }

    def __str__(self) -> str:
        share = f"{self.others:,} of {self.values:,} values are of another kind, first {self.first}"
        if not self.others:
            share = f"as a number, {self.first} would not come back as it is written"
        before = f"{self.before or 'objects'} in version {self.version}"
        if self.left_out:
            return f"column {self.column!r} holds {before}, and still does: {share}; their rows are left out"
        mend = "; --on_bad_row skip leaves such rows out" if self.few else ""
        return f"column {self.column!r} holds {self.now or 'objects'}, it held {before}: {share}{mend}"
