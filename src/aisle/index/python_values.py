"""Read rows as Python values, also rows with a value that Python cannot hold."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

__all__ = ["python_rows"]

_REFUSED = (pa.ArrowException, OverflowError, ValueError)
"""What Arrow raises for a date after the year 9999, an unknown time zone, or bytes that are not UTF-8."""


def python_rows(table: pa.Table) -> tuple[list[dict[str, Any]], list[tuple[str, ...]]]:
    """Return the rows of a table, and for each row the columns with a value that Python cannot hold.

    This value is None, in a list or an object as well, and the other values of the row are there. A time with
    nanoseconds, which Python holds with pandas only, is its text without pandas.
    """
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows, [()] * len(rows)
    except _REFUSED:
        pass  # read value by value, which takes longer
    columns = {name: _values(table.column(name)) for name in table.column_names}
    places = range(table.num_rows)
    return (
        [{name: values[place] for name, (values, _) in columns.items()} for place in places],
        [tuple(name for name, (_, read) in columns.items() if not read[place]) for place in places],
    )


def _values(column: pa.ChunkedArray) -> tuple[list[Any], list[bool]]:
    """Return the values of a column, and whether Python holds each of them."""
    try:
        return column.to_pylist(), [True] * len(column)
    except _REFUSED:
        found = [_value(scalar) for scalar in column]
        return [value for value, _ in found], [read for _, read in found]


def _value(scalar: pa.Scalar) -> tuple[Any, bool]:
    """Return the value of a scalar, and whether Python holds all of it."""
    try:
        return scalar.as_py(), True
    except _REFUSED:
        pass
    if isinstance(scalar, pa.DictionaryScalar):
        return _value(scalar.value)
    if isinstance(scalar, pa.StructScalar):
        parts = {name: _value(part) for name, part in scalar.items()}
        return {name: value for name, (value, _) in parts.items()}, all(read for _, read in parts.values())
    if isinstance(scalar, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):  # also maps
        items = [_value(item) for item in scalar.values]
        values = [value for value, _ in items]
        pairs = isinstance(scalar, pa.MapScalar)
        return [tuple(pair.values()) for pair in values] if pairs else values, all(read for _, read in items)
    if pa.types.is_timestamp(scalar.type) and scalar.type.unit == "ns":
        return _text(scalar)
    return None, False


def _text(scalar: pa.Scalar) -> tuple[str | None, bool]:
    """Return a time as Arrow writes it; a time in nanoseconds never leaves the years 1677 to 2262."""
    try:
        return scalar.cast(pa.string()).as_py(), True
    except _REFUSED:  # an unknown time zone
        return None, False
