"""Names that several packages share: kinds of columns, by their Arrow types, and languages of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NOTE_KEY", "Kind", "Language", "kind_of_type"]

Kind = Literal["texts", "numbers", "true or false", "dates", "times", "lists", "nothing"]
"""`nothing` is the kind of a column that never had a value: it has no type until its first one."""

Language = Literal[
    "none",
    "arabic",
    "armenian",
    "basque",
    "catalan",
    "czech",
    "danish",
    "dutch",
    "english",
    "esperanto",
    "estonian",
    "finnish",
    "french",
    "german",
    "greek",
    "hindi",
    "hungarian",
    "indonesian",
    "irish",
    "italian",
    "lithuanian",
    "nepali",
    "norwegian",
    "persian",
    "polish",
    "portuguese",
    "romanian",
    "russian",
    "serbian",
    "sesotho",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
    "yiddish",
]
"""The languages that Snowball stems; "none" keeps words as they are."""

NOTE_KEY = b"aisle:note"
"""Metadata key of a field: why a column that looks like numbers holds texts."""


def kind_of_type(stored: pa.DataType) -> Kind | None:
    """Return what a column of a type holds; None for objects and bytes, which are only given back."""
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
