"""Convert values of payload columns to the type that Arrow infers, or to a given type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from aisle.data.column_values import kind_of_value
from aisle.data.text_values import blank_as_null, read_texts
from aisle.types.columns import Kind, kind_of_type

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["InferredColumn", "as_text", "fitted", "infer_columns", "kind_rule"]


class InferredColumn(NamedTuple):
    """Values of a column in one type, or as texts if they have several kinds; blank texts are null."""

    values: pa.Array
    kinds: Sequence[Kind | None] | None


def infer_columns(
    rows: Sequence[Mapping[str, object]],
    *,
    left_out: str | None,
    declared: Mapping[str, pa.DataType] | None = None,
) -> dict[str, InferredColumn]:
    """Return the columns of rows, each in the type that Arrow infers from its values, or as texts.

    Args:
        rows: Column to value; a column that a row lacks is null there.
        left_out: Column that is not part of the payload.
        declared: Types that the source declares, as parquet does; they also apply to columns without values.
    """
    names = dict.fromkeys(name for values in rows for name in values if name != left_out)
    declared = declared or {}
    return {name: _infer([values.get(name) for values in rows], declared.get(name)) for name in names}


_RULES: Mapping[Kind, str] = {
    "texts": "is not text",
    "numbers": "is not a number",
    "true or false": "is neither true nor false",
    "dates": "is not a date such as 2026-01-31",
    "times": "is not a time such as 2026-01-31T12:30:00",
    "lists": "is not a list (in csv, a JSON list)",
    "nothing": "has a value",
}


def kind_rule(kind: pa.DataType) -> str:
    """Return the rule that a value of another kind breaks, for messages."""
    named = kind_of_type(kind)
    return f"is not of the type {kind}" if named is None else _RULES[named]


def fitted(column: pa.Array, kind: pa.DataType) -> tuple[pa.Array, pa.Array | None]:
    """Return values converted to a type, null for those that do not fit, and which fit; None if all do."""
    import pyarrow as pa

    if column.type == kind:
        return column, None
    if pa.types.is_string(column.type):
        return read_texts(column, kind)
    if kind_of_type(kind) == "texts":
        return pa.array([as_text(value) for value in column.to_pylist()], kind), None
    if kind_of_type(column.type) in {kind_of_type(kind), "nothing"}:
        try:
            return column.cast(kind), None
        except pa.ArrowException:
            pass
    values, fits = [], []
    for value in column.to_pylist():
        same = kind_of_value(value) == kind_of_type(kind)
        try:
            values.append(pa.scalar(value, kind).as_py() if same else None)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            values.append(None)
        fits.append(value is None or values[-1] is not None)
    return pa.array(values, kind), pa.array(fits, pa.bool_())


def _infer(values: list[object], declared: pa.DataType | None) -> InferredColumn:
    """Return the values in the declared type, in the type that Arrow infers, or as texts; blank is null.

    Objects become JSON texts: as Arrow structs, every key that is an id would become a column.
    """
    import pyarrow as pa

    failures = (pa.ArrowException, OverflowError, TypeError, ValueError)
    if declared is not None:
        try:
            column = pa.array(values, declared)
            return InferredColumn(
                blank_as_null(column) if kind_of_type(declared) == "texts" else column, None
            )
        except failures:
            pass
    if not any(isinstance(value, dict) for value in values):
        for tried in (values, [_null_if_blank(value) for value in values]):
            try:
                column = pa.array(tried)
            except failures:
                continue
            if pa.types.is_string(column.type):
                column = blank_as_null(column)
            if column.null_count == len(column):
                column = pa.nulls(len(column))
            return InferredColumn(column, None)
    texts = pa.array([as_text(_null_if_blank(value)) for value in values], pa.string())
    kinds = [kind_of_value(_null_if_blank(value)) for value in values]
    return InferredColumn(texts, kinds if len(set(kinds) - {"nothing"}) > 1 else None)


def _null_if_blank(value: object) -> object:
    return None if isinstance(value, str) and (not value or value.isspace()) else value


def as_text(value: object) -> str | None:
    """Return a text unchanged, and any other value as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)
