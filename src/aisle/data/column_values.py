"""Record the kinds of values of a payload column while rows are streamed, and the first of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aisle.data.rows import shorten
from aisle.data.text_values import (
    are_amounts,
    are_dates,
    are_integers,
    are_numbers,
    are_true_or_false,
    comes_back,
)
from aisle.types.columns import Kind, kind_of_type

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ColumnValues", "Seen", "kind_of_value"]

# After this many texts, a column is one of texts: further values are counted but not examined.
_LOOKED_AT = 20_000
_MOSTLY = 0.9


class Seen(NamedTuple):
    """A value, its row number over all chunks, and the place of that row for messages."""

    row: int
    value: object
    place: str

    def __str__(self) -> str:
        return f"{shorten(self.value)} ({self.place})"


Finder = Callable[[int], Seen]
"""Function that returns the value in a row of the current chunk."""


@dataclass
class ColumnValues:
    """Kinds of values of a column, from which its type follows; rows are not kept.

    Texts of csv are counted as numbers, dates and so on if they can be read as such; texts of typed sources
    (jsonl, parquet) are texts.

    Args:
        is_text: Whether the column stays text even if its values look like numbers.
    """

    is_text: bool
    types: dict[pa.DataType, None] = field(default_factory=dict)
    """Types of the typed rows with values, or with a type that their source declares."""
    counts: Counter[Kind | None] = field(default_factory=Counter)
    first: dict[Kind | None, Seen] = field(default_factory=dict)
    amounts: int = 0
    _first_amount: Seen | None = None
    _csv: Counter[Kind] = field(default_factory=Counter)
    _integers: int = 0
    _changed: Seen | None = None
    _zero_ended: Seen | None = None
    _scales: set[int] = field(default_factory=set)

    @property
    def total(self) -> int:
        """Number of values that are not blank."""
        return self.counts.total()

    def add_typed(self, column: pa.Array, find: Finder, *, kinds: Sequence[Kind | None] | None) -> None:
        """Record a chunk of a typed source.

        Args:
            column: Values of the chunk.
            find: Function that returns the value in a row.
            kinds: Kind of each value if they have several, in which case the column holds texts.
        """
        import pyarrow.compute as pc

        if kinds is not None:
            for row, kind in enumerate(kinds):
                if kind != "nothing":
                    self._count(kind, 1, row, find)
        elif len(column) > column.null_count:
            kind = kind_of_type(column.type)
            first = pc.index(column.is_valid(), True).as_py()
            self._count(kind, len(column) - column.null_count, first, find)
            if kind == "texts":
                self._note_amounts(column, find)
        if column.type.id != 0:
            self.types[column.type] = None

    def add_texts(self, texts: pa.Array, find: Finder) -> None:
        """Record a chunk of csv; blank cells are null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = pc.indices_nonzero(texts.is_valid())
        known = self._csv["texts"]
        if known < _LOOKED_AT or 2 * known < self._csv.total():
            tests: tuple[tuple[Kind, Callable[[pa.Array], pa.Array]], ...] = (
                ("numbers", are_numbers),
                ("true or false", are_true_or_false),
                ("dates", are_dates),
            )
            for kind, test in tests:
                values = texts.take(rows)
                found = test(values)
                count = found.true_count
                if count:
                    self._csv[kind] += count
                    self._count(kind, count, rows.filter(found)[0].as_py(), find)
                    if kind == "numbers":
                        self._note_numbers(values.filter(found), rows.filter(found), find)
                    rows = rows.filter(pc.invert(found))
        if len(rows):
            self._csv["texts"] += len(rows)
            self._count("texts", len(rows), rows[0].as_py(), find)
            left = pa.array(rows)
            self._note_amounts(texts.take(left), lambda row: find(left[row].as_py()))

    def _count(self, kind: Kind | None, count: int, row: int, find: Finder) -> None:
        self.counts[kind] += count
        if kind not in self.first:
            self.first[kind] = find(row)

    def _note_numbers(self, numbers: pa.Array, rows: pa.Array, find: Finder) -> None:
        """Record which numbers would not be written back unchanged."""
        import pyarrow.compute as pc

        self._integers += are_integers(numbers).true_count
        back = comes_back(numbers)
        if self._changed is None and back.false_count:
            self._changed = find(rows.filter(pc.invert(back))[0].as_py())
        point = pc.find_substring(numbers, ".")
        scales = pc.subtract(pc.subtract(pc.utf8_length(numbers), point), 1)
        has_fraction = pc.and_(pc.greater_equal(point, 0), pc.greater(scales, 0))
        self._scales.update(pc.unique(scales.filter(has_fraction)).to_pylist()[:20])
        zeros = pc.match_substring_regex(numbers, r"\.[0-9]+0$")
        if self._zero_ended is None and zeros.true_count:
            self._zero_ended = find(rows.filter(zeros)[0].as_py())

    def _note_amounts(self, texts: pa.Array, find: Finder) -> None:
        import pyarrow.compute as pc

        if self.amounts == 0 and self.counts["texts"] > _LOOKED_AT:
            return
        found = pc.fill_null(are_amounts(texts), False)
        if found.true_count and self._first_amount is None:
            self._first_amount = find(pc.index(found, True).as_py())
        self.amounts += found.true_count

    @property
    def _unlike(self) -> Seen | None:
        """First number of csv that would not be written back unchanged; None if all would."""
        if self._integers == self._csv["numbers"]:
            return None
        if self._changed is not None:
            return self._changed
        # 12.50 next to 10 and 9.99 is a price; 1.10 next to 1.9 is a version, not the number 1.1.
        return self._zero_ended if len(self._scales) > 1 else None

    def known_types(self) -> list[pa.DataType]:
        """Return the types of the typed rows, and the type of the csv texts."""
        import pyarrow as pa

        types = list(self.types)
        if not self._csv.total():
            return types
        by_kind = {"true or false": pa.bool_(), "dates": pa.date32(), "texts": pa.string()}
        kind = self.csv_kind
        if kind == "numbers":
            whole = self._integers == self._csv["numbers"]
            return [*types, pa.int64() if whole else pa.float64()]
        return [*types, by_kind[kind]]

    @property
    def csv_kind(self) -> Kind:
        """Kind as which all csv texts are read."""
        if self.is_text or len(+self._csv) != 1:
            return "texts"
        (kind,) = +self._csv
        return "texts" if kind == "numbers" and self._unlike is not None else kind

    def first_unlike(self, kind: Kind | None) -> Seen | None:
        """Return the first value of another kind, or the first number that must stay text."""
        others = [seen for other, seen in self.first.items() if other != kind]
        return min(others) if others else self._unlike if kind == "numbers" else None

    def note(self, name: str) -> str | None:
        """Return why a column that looks like numbers holds texts, and what to do; None for other columns."""
        if self.is_text or not self.total:
            return None
        numbers = self.counts["numbers"]
        if numbers == self.total == self._csv["numbers"] and self._unlike is not None:
            return (
                f"column {name!r} holds texts: as a number, {self._unlike} would not come back as it is "
                "written; for numbers, write all with the same decimals and without exponents"
            )
        odd = self.first_unlike("numbers")
        if self._first_amount is not None and 2 * (numbers + self.amounts) >= self.total:
            return (
                f"column {name!r} holds texts, because {self._first_amount} is not written as a number; "
                "write it like 1299.50: no currency, no thousands separator, a point for decimals"
            )
        if odd is not None and _MOSTLY * self.total <= numbers < self.total:
            return (
                f"column {name!r} holds texts, because {odd} is not a number; {numbers:,} of {self.total:,} "
                "values are; leave a missing value blank"
            )
        return None


def kind_of_value(value: object) -> Kind | None:
    """Return the kind of one value of a typed source."""
    import datetime

    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "texts"
    if isinstance(value, list):
        return "lists"
    if isinstance(value, datetime.datetime):
        return "times"
    if isinstance(value, datetime.date):
        return "dates"
    return None if isinstance(value, dict | bytes) else "numbers"
