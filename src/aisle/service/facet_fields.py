"""Find the columns whose values are worth counting: those that products share."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from aisle.types.columns import ID_COLUMN, TEXT_COLUMN, kind_of_type

__all__ = ["facet_fields"]

ROWS = 20_000
"""Products to look at: enough to tell a brand from a title, and fast in a catalogue of any size."""
LEAST_PER_VALUE = 2
"""A column has facets if a value has as many products on average."""


def facet_fields(products: pa.Table) -> list[str]:
    """Return the columns of texts, numbers, dates, true or false, and lists of these, with shared values.

    Args:
        products: Products of an index; its first rows are looked at.
    """
    seen = products.slice(0, ROWS)
    return [
        column.name
        for column in products.schema
        if column.name not in (ID_COLUMN, TEXT_COLUMN) and _shared(seen.column(column.name))
    ]


def _shared(values: pa.ChunkedArray) -> bool:
    if kind_of_type(values.type) == "lists":
        values = pc.list_flatten(values)
    if kind_of_type(values.type) in (None, "lists", "nothing"):
        return False
    given = values.drop_null()  # unique, unlike count_distinct, reads dictionaries
    return 0 < LEAST_PER_VALUE * len(given.unique()) <= len(given)
