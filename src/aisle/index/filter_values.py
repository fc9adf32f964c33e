"""Columns and values of a filter, converted to the few Arrow types that filters compare."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aisle.types.columns import NOTE_KEY, Kind, kind_of_type

__all__ = [
    "Column",
    "Value",
    "column_of",
    "compare",
    "has_item",
    "is_one_of",
    "scalar_of",
    "unknown_column",
]

Value: TypeAlias = "str | int | float | bool"

COMPARISONS = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
INT64_LIMIT = 2**63
LONGEST_NAME = 200
"""Longest name of an unknown column that a message repeats. A client may send megabytes."""


@dataclass(frozen=True)
class Column:
    """A column of the products, as filters compare it."""

    name: str
    stored: pa.DataType
    """Arrow type in the file."""
    kind: Kind | None
    """Kind of its values; None if a filter can only check whether there is a value."""
    compared: pa.DataType
    """Arrow type in which its values are compared."""
    note: str | None = None
    """Why the column holds texts although it looks like numbers; None for other columns."""

    @property
    def items(self) -> Column:
        """The items of a column of lists, as a column."""
        item: pa.DataType = self.stored.value_type
        return Column(self.name, item, kind_of_type(item), _compared_as(item))

    def values(self, batch: pa.RecordBatch) -> pa.Array:
        """Return the column's values in a batch, in the type in which they are compared."""
        return batch.column(self.name).cast(self.compared)

    def __str__(self) -> str:
        return f"column {self.name!r} holds {self.kind or 'values'} ({self.stored})"


def column_of(field: pa.Field) -> Column:
    """Return the column for a field of the products' schema."""
    stored = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    note = (field.metadata or {}).get(NOTE_KEY)
    return Column(
        field.name,
        stored,
        kind_of_type(stored),
        _compared_as(stored),
        None if note is None else note.decode(),
    )


def unknown_column(name: str, names: Sequence[str]) -> str:
    """Return the message for a column that is not among `names`."""
    shown = name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "..."
    near = difflib.get_close_matches(shown, names, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    columns = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"there is no column {shown!r}; {meant}columns are {columns}"


def scalar_of(value: Value, column: Column) -> pa.Scalar:
    """Return a value in the type in which a column is compared.

    Whole numbers are compared exactly. A value for a float32 column is rounded like the column's values, so
    49.99 equals 49.99. Dates and times are ISO 8601 texts; a time without an offset is UTC if the column has
    a time zone.

    Raises:
        ValueError: The column does not hold this kind of value; the message is for the user.
    """
    if column.kind in {"dates", "times"} and isinstance(value, str):
        return _time_scalar(value, column)
    if column.kind == "nothing":
        return pa.scalar(None, pa.null())
    if _kind_of(value) != column.kind:
        why = f"{column} and" if column.note is None else f"{column.note}; it"
        raise ValueError(f"{why} is not compared with {_described(value)}")
    if column.kind != "numbers":
        return pa.scalar(value, column.compared)
    return pa.scalar(_number(value, column))


def compare(symbol: str, left: pa.Array | pa.Scalar, right: pa.Array | pa.Scalar) -> pa.Array:
    """Return whether `left symbol right` is true for each row; null if a side is null."""
    if pa.types.is_null(left.type) or pa.types.is_null(right.type):
        length = max(len(side) if isinstance(side, pa.Array) else 0 for side in (left, right))
        return pa.nulls(length, pa.bool_())
    if pa.types.is_floating(left.type) != pa.types.is_floating(right.type):
        # Arrow itself refuses whole numbers beyond 2^53 here.
        left, right = (pc.cast(side, pa.float64(), safe=False) for side in (left, right))
    return COMPARISONS[symbol](left, right)


def is_one_of(values: pa.Array, wanted: Sequence[pa.Scalar]) -> pa.Array:
    """Return whether each value is among the wanted values; null if it is null."""
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.bool_())
    if pa.types.is_integer(values.type):  # a column of whole numbers has no 2.5
        wanted = [scalar for scalar in wanted if pa.types.is_integer(scalar.type)]
    value_type = wanted[0].type if wanted and pa.types.is_timestamp(values.type) else values.type
    found = pc.is_in(values, value_set=pa.array([scalar.as_py() for scalar in wanted], value_type))
    return pc.if_else(values.is_valid(), found, pa.scalar(None, pa.bool_()))


def has_item(lists: pa.Array, wanted: pa.Scalar, items: Column) -> pa.Array:
    """Return whether each list contains an item; null if the list is null.

    Args:
        lists: Lists of a batch.
        wanted: The item, in the type in which items are compared.
        items: Items of the column of lists, as a column.
    """
    # The memory of a null list may still hold items; only one of the two functions below skips them.
    there = lists.drop_null()
    if pa.types.is_fixed_size_list(there.type):
        there = there.cast(pa.list_(there.type.value_type))
    values = pc.list_flatten(there).cast(items.compared)
    is_wanted = pc.fill_null(compare("==", values, wanted), False).to_numpy(zero_copy_only=False)
    rows = lists.is_valid().to_numpy(zero_copy_only=False).nonzero()[0]
    found = np.zeros(len(lists), np.bool_)
    found[rows[pc.list_parent_indices(there).to_numpy()[is_wanted.astype(np.bool_)]]] = True
    return pc.if_else(lists.is_valid(), pa.array(found), pa.scalar(None, pa.bool_()))


def _compared_as(stored: pa.DataType) -> pa.DataType:
    """Return the type in which values of a type are compared; the same type if they are not compared."""
    types = pa.types
    if types.is_large_string(stored) or types.is_string_view(stored):
        return pa.large_string()
    if types.is_integer(stored):
        return pa.int64()
    if types.is_floating(stored) or types.is_decimal(stored):
        return pa.float64()
    if types.is_date(stored):
        return pa.date32()
    if types.is_timestamp(stored):
        return pa.timestamp(stored.unit, tz="UTC" if stored.tz else None)
    return stored


def _kind_of(value: Value) -> Kind:
    if isinstance(value, bool):
        return "true or false"
    return "texts" if isinstance(value, str) else "numbers"


def _described(value: Value) -> str:
    return f"the {'text' if isinstance(value, str) else 'value'} {value!r}"


def _number(value: Any, column: Column) -> int | float:
    if pa.types.is_integer(column.compared):
        if value == int(value) and -INT64_LIMIT <= value < INT64_LIMIT:
            return int(value)
        if isinstance(value, int):
            raise ValueError(f"{column}, which reach from -2^63 to 2^63 - 1, found {value}")
        return float(value)
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{column}, which are at most 1.8e308, found {value}") from None
    with np.errstate(over="ignore"):
        return float(np.float32(number)) if column.stored == pa.float32() else number


def _time_scalar(text: str, column: Column) -> pa.Scalar:
    if column.kind == "dates":
        try:
            return pa.scalar(date.fromisoformat(text), column.compared)
        except ValueError:
            raise ValueError(f"{column}, to be written as '2026-01-31', found {text!r}") from None
    whole, nanoseconds = _without_nanoseconds(text)
    moment = pa.scalar(_moment(whole, text, column), pa.timestamp("us", tz=column.compared.tz))
    if not nanoseconds:
        return moment
    if column.compared.unit != "ns":
        raise ValueError(f"{column}, which are not that fine, found {text!r}; write at most 6 decimals")
    try:
        return pa.scalar(moment.value * 1000 + nanoseconds, column.compared)
    except (OverflowError, pa.ArrowException):
        raise ValueError(f"{column}, which does not hold nanoseconds of {text!r}") from None


def _moment(whole: str, text: str, column: Column) -> datetime:
    """Return the time in a text without nanoseconds, with an offset if the column has a time zone."""
    try:
        if re.search(r"\.\d{7}", whole):
            raise ValueError("finer than nanoseconds; Python would cut it")
        # Before Python 3.11, fromisoformat does not accept Z.
        moment = datetime.fromisoformat(whole[:-1] + "+00:00" if whole.endswith("Z") else whole)
    except ValueError:
        raise ValueError(f"{column}, to be written as '2026-01-31T12:30:00', found {text!r}") from None
    if column.compared.tz is None:
        if moment.tzinfo is not None:
            raise ValueError(f"{column} without a time zone, found one in {text!r}; leave it out")
    elif moment.tzinfo is None:
        return moment.replace(tzinfo=timezone.utc)
    return moment


def _without_nanoseconds(text: str) -> tuple[str, int]:
    """Return a time cut to microseconds, and the nanoseconds that were cut, which Python does not have."""
    found = re.fullmatch(r"(.*\.\d{6})(\d{1,3})(\D.*)?", text)
    if found is None:
        return text, 0
    return found[1] + (found[3] or ""), int(found[2].ljust(3, "0"))
