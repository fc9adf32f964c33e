"""Names and kinds of columns that several packages share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ID_COLUMN", "NOTE_KEY", "TEXT_COLUMN", "TITLE_COLUMNS", "Kind", "kind_of_type"]

ID_COLUMN = "product_id"
"""Column of product ids, in catalogue files and in an index."""
TEXT_COLUMN = "__text__"
"""Column of the texts that are embedded, in catalogue files and in an index; the name is reserved."""
TITLE_COLUMNS = ("title", "product_title", "name")
"""Usual columns of product titles, the likeliest first."""

Kind = Literal["texts", "numbers", "true or false", "dates", "times", "lists", "nothing"]
"""What a column holds. `nothing`: it has had no value yet, and gets its type from its first one."""

NOTE_KEY = b"aisle:note"
"""Key in the metadata of an Arrow field: why a column that looks like numbers holds texts."""


def kind_of_type(stored: pa.DataType) -> Kind | None:
    """Return the kind of a column of this Arrow type; None for objects and bytes, which have no kind."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(stored):
        return kind_of_type(stored.value_type)
    if types.is_string(stored) or types.is_large_string(stored) or types.is_string_view(stored):
        return "texts"
    if types.is_integer(stored) or types.is_floating(stored) or types.is_decimal(stored):
        return "numbers"
    if types.is_boolean(stored):
        return "true or false"
    if types.is_date(stored):
        return "dates"
    if types.is_timestamp(stored):
        return "times"
    if types.is_list(stored) or types.is_large_list(stored) or types.is_fixed_size_list(stored):
        return "lists"
    return "nothing" if types.is_null(stored) else None
