"""Read rows from Arrow tables, as parquet files and the Hub have them, with their declared types."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from aisle.data.rows import Problem, Row
from aisle.types.columns import kind_of_type

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["declared_types", "table_rows"]


def declared_types(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Return the types of an Arrow schema that a catalogue keeps; other types, such as objects, are inferred.

    Single-precision numbers become double: see `table_rows`.
    """
    import pyarrow as pa

    types = {}
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        item = kind.value_type if kind_of_type(kind) == "lists" else kind
        if kind_of_type(item) in {None, "lists", "nothing"}:
            continue
        is_text = kind_of_type(kind) == "texts"
        types[field.name] = pa.string() if is_text else pa.float64() if _is_single(kind) else kind
    return types


def _is_single(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_float32(kind) or pa.types.is_float16(kind))


def table_rows(
    table: pa.Table | pa.RecordBatch,
    *,
    source: str,
    first: int,
    declared: Mapping[str, pa.DataType] | None = None,
) -> Iterator[Row]:
    """Yield the rows of an Arrow table, numbered from `first`.

    A single-precision number becomes its shortest decimal: 49.99, not 49.9900016784668.
    """
    names, classes = table.schema.names, _class_names(table.schema)
    try:
        columns = [_as_written(column).to_pylist() for column in table.columns]
    except ValueError:
        yield from _one_by_one(table, source=source, first=first, declared=declared)
        return
    for number, values in enumerate(zip(*columns, strict=True), start=first):
        values_of = dict(zip(names, values, strict=True))
        yield Row(source, number, values_of, declared=declared, class_names=classes)


def _class_names(schema: pa.Schema) -> Mapping[str, Sequence[str]] | None:
    """Return the names of each column of classes (ClassLabel), from the features that `datasets` keeps."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: one["names"] for name, one in features.items() if one.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, AttributeError, ValueError):  # without features, or of another version
        return None
    return found or None


def _as_written(column: pa.Array) -> pa.Array:
    return column.cast("float").cast("string").cast("double") if _is_single(column.type) else column


def _one_by_one(
    table: pa.Table | pa.RecordBatch,
    *,
    source: str,
    first: int,
    declared: Mapping[str, pa.DataType] | None,
) -> Iterator[Row]:
    """Yield rows like `table_rows`, from a table with values that cannot be read, such as invalid UTF-8."""
    for index in range(table.num_rows):
        try:
            part = table.slice(index, 1)
            row = {
                name: _as_written(column)[0].as_py()
                for name, column in zip(part.schema.names, part.columns, strict=True)
            }
        except ValueError as error:
            reason = "is not valid UTF-8" if isinstance(error, UnicodeDecodeError) else "cannot be read"
            yield Row(source, first + index, {}, None, Problem(reason, str(error)))
        else:
            classes = _class_names(table.schema)
            yield Row(source, first + index, row, declared=declared, class_names=classes)
