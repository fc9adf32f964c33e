"""Facets: how many products of a set have each value of a column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aisle.errors import SearchError
from aisle.index.filter_values import Column, column_of, unknown_column
from aisle.index.products import take_rows
from aisle.index.scoring import Rows
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

__all__ = ["Facet", "FacetValue", "count_values", "group_by_value"]

FacetValue: TypeAlias = "str | int | float | bool | date | datetime"
"""A value as a filter compares it: decimals are floats, times with an offset are UTC."""


@dataclass(frozen=True)
class Facet:
    """Counts of the values of a column, for the products that a total counts.

    If no product has several values, the counts, `missing` and `other` sum to the total.
    """

    values: list[tuple[FacetValue, int]]
    """The most frequent values with their number of products; equal counts are in order of the values."""
    missing: int
    """Products without a value: null, NaN, an empty list, a list of nulls."""
    other: int
    """Sum of the counts of all values that are not in `values`."""


def count_values(products: pa.Table, rows: Rows, field: str, *, size: int) -> Facet:
    """Return the facet of a column; a product counts once for each distinct item of its list.

    Args:
        products: Products of the index.
        rows: (n,) rows to count.
        field: Name of a column that a filter can compare: texts, numbers, true or false, dates, times, or
            lists of these.
        size: Most values to return.

    Raises:
        SearchError: The column is unknown, or holds objects, bytes, or lists of these or of lists; or a value
            cannot be counted, such as a date after the year 9999.
    """
    column = _column(products.schema, field, "facets")
    with _readable(column, "facets"):
        if column.kind == "lists":
            values, product_of = _items(_taken(products, rows, column), column)
            has_value = len(np.unique(product_of))
        else:
            values = _counted(_taken(products, rows, column), column).drop_null()
            has_value = len(values)
        counted = values.value_counts()
        table = pa.table({"value": counted.field("values"), "count": counted.field("counts")})
        order = [("count", "descending"), ("value", "ascending")]
        shown = table if not len(table) else table.take(pc.sort_indices(table, sort_keys=order)[:size])
        counts = shown.column("count").to_pylist()
        return Facet(
            values=list(zip(shown.column("value").to_pylist(), counts, strict=True)),
            missing=len(rows) - has_value,
            other=len(values) - sum(counts),
        )


def group_by_value(
    products: pa.Table, rows: Rows, field: str
) -> tuple[npt.NDArray[np.int64], list[FacetValue]]:
    """Return the group of each row, and the values of the groups; rows without a value are groups alone.

    Args:
        products: Products of the index.
        rows: (n,) rows to group.
        field: Name of a column with a single value per product.

    Returns:
        (n,) numbers of groups, and the values of the first groups; later groups are rows without a value.

    Raises:
        SearchError: The column is unknown, or holds lists, objects or bytes; or a value cannot be counted.
    """
    column = _column(products.schema, field, "group_by")
    if column.kind == "lists":
        raise SearchError(
            f"group_by: {column}, so a product could be in several groups; group by a column with a single "
            "value per product"
        )
    with _readable(column, "group_by"):
        encoded = _counted(_taken(products, rows, column), column).dictionary_encode()
        values: list[FacetValue] = encoded.dictionary.to_pylist()
    groups = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    alone = np.flatnonzero(groups < 0)
    groups[alone] = len(values) + np.arange(len(alone))
    return groups, values


def _column(schema: pa.Schema, field: str, argument: str) -> Column:
    """Return the column to count; refuse columns that a filter cannot compare."""
    names = [name for name in schema.names if name not in (ID_COLUMN, TEXT_COLUMN)]
    if field not in names:
        raise SearchError(f"{argument}: {unknown_column(field, names)}")
    column = column_of(schema.field(field))
    kind = column.items.kind if column.kind == "lists" else column.kind
    if kind is None or (column.kind == "lists" and kind == "lists"):
        raise SearchError(
            f"{argument}: {column}, which are not counted; name a column of texts, numbers, true or false, "
            "dates or times, and copy a value out of an object into its own column"
        )
    return column


def _taken(products: pa.Table, rows: Rows, column: Column) -> pa.Array:
    """Return the values of a column in some rows."""
    taken = take_rows(products.select([column.name]), rows).column(0).combine_chunks()
    # Some versions of Arrow return a chunked array with one chunk.
    return taken.chunk(0) if isinstance(taken, pa.ChunkedArray) and taken.num_chunks else taken


@contextmanager
def _readable(column: Column, argument: str) -> Iterator[None]:
    """Refuse a column with a value that Arrow cannot convert or Python cannot hold."""
    try:
        yield
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise SearchError(
            f"{argument}: {column}, and a value cannot be counted: {error}; repair it, and build the index "
            "again"
        ) from None


def _counted(values: pa.Array, column: Column) -> pa.Array:
    """Return values in the type in which they are counted, with NaN as null.

    There is one zero: 0.0 and -0.0 are equal in filters too. A filter compares whole numbers as int64; they
    are counted as uint64 if that is their type, because int64 ends at 2^63.
    """
    values = values.cast(column.stored if pa.types.is_uint64(column.stored) else column.compared)
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), pc.add(values, 0.0))


def _items(lists: pa.Array, column: Column) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Return the distinct items of each list, and the number of its list for each item."""
    there = lists.drop_null()  # the memory of a null list may still hold items
    if pa.types.is_fixed_size_list(there.type):
        there = there.cast(pa.list_(there.type.value_type))
    items = _counted(pc.list_flatten(there), column.items)
    list_of = pc.list_parent_indices(there).to_numpy(zero_copy_only=False).astype(np.int64)
    valid = items.is_valid().to_numpy(zero_copy_only=False)
    encoded = items.drop_null().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    kinds = max(1, len(encoded.dictionary))
    pairs = np.unique(list_of[valid] * kinds + codes)
    return encoded.dictionary.take(pa.array(pairs % kinds)), pairs // kinds
