"""The columns and values of a filter, in the few Arrow types that it compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Column", "Kind", "Value", "column_of", "compare", "contains", "scalar_of"]

Kind = Literal["texts", "numbers", "true or false", "dates", "times"]
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


@dataclass(frozen=True)
class Column:
    """A column of the products."""

    name: str
    stored: pa.DataType
    """Type in the file."""
    kind: Kind | None
    """What it holds; None where a filter can only ask whether a value is there."""
    compared: pa.DataType
    """Type in which it is compared."""

    def values(self, batch: pa.RecordBatch) -> pa.Array:
        """Return the values of a batch as they are compared."""
        return batch.column(self.name).cast(self.compared)

    def __str__(self) -> str:
        return f"column {self.name!r} holds {self.kind or 'values'} ({self.stored})"


def column_of(field: pa.Field) -> Column:
    """Return the column of a field of the products' schema."""
    stored = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    kind, compared = _compared_as(stored)
    return Column(field.name, field.type, kind, compared)


def scalar_of(value: Value, column: Column) -> pa.Scalar:
    """Return a value as it is compared with a column.

    Whole numbers are compared exactly. A value for a float32 column is rounded as the column's values were,
    so that 49.99 equals 49.99. Dates and times are ISO 8601 texts; a time without an offset is UTC where the
    column has a time zone.

    Raises:
        ValueError: the column does not hold such values; the message is for the user.
    """
    if column.kind in {"dates", "times"} and isinstance(value, str):
        return _time_scalar(value, column)
    if _kind_of(value) != column.kind:
        raise ValueError(f"{column} and is not compared with {_described(value)}")
    if column.kind != "numbers":
        return pa.scalar(value, column.compared)
    return pa.scalar(_number(value, column))


def compare(symbol: str, left: pa.Array | pa.Scalar, right: pa.Array | pa.Scalar) -> pa.Array:
    """Return `left symbol right`, null where a side is null."""
    if pa.types.is_floating(left.type) != pa.types.is_floating(right.type):
        # Arrow itself refuses whole numbers beyond 2^53 here.
        left, right = (pc.cast(side, pa.float64(), safe=False) for side in (left, right))
    return COMPARISONS[symbol](left, right)


def contains(values: pa.Array, wanted: Sequence[pa.Scalar]) -> pa.Array:
    """Return whether each value is one of those wanted, null where it is null."""
    if pa.types.is_integer(values.type):  # 2.5 is none of its values
        wanted = [scalar for scalar in wanted if pa.types.is_integer(scalar.type)]
    value_type = wanted[0].type if wanted and pa.types.is_timestamp(values.type) else values.type
    found = pc.is_in(values, value_set=pa.array([scalar.as_py() for scalar in wanted], value_type))
    return pc.if_else(values.is_valid(), found, pa.scalar(None, pa.bool_()))


def _compared_as(stored: pa.DataType) -> tuple[Kind | None, pa.DataType]:
    types = pa.types
    if types.is_string(stored):
        return "texts", stored
    if types.is_large_string(stored) or types.is_string_view(stored):
        return "texts", pa.large_string()
    if types.is_boolean(stored):
        return "true or false", stored
    if types.is_integer(stored):
        return "numbers", pa.int64()
    if types.is_floating(stored) or types.is_decimal(stored):
        return "numbers", pa.float64()
    if types.is_date(stored):
        return "dates", pa.date32()
    if types.is_timestamp(stored):
        return "times", pa.timestamp(stored.unit, tz="UTC" if stored.tz else None)
    return None, stored


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
    try:
        if column.kind == "dates":
            return pa.scalar(date.fromisoformat(text), column.compared)
        # Before Python 3.11, fromisoformat does not know Z.
        moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        example = "2026-01-31" if column.kind == "dates" else "2026-01-31T12:30:00"
        raise ValueError(f"{column}, to be written as {example!r}, found {text!r}") from None
    if column.compared.tz is None:
        if moment.tzinfo is not None:
            raise ValueError(f"{column} without a time zone, found one in {text!r}; leave it out")
    elif moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return pa.scalar(moment, pa.timestamp("us", tz=column.compared.tz))
