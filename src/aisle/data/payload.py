"""The catalogue's payload: columns of any type, gathered in chunks into one Arrow table."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PayloadBuilder"]

_CHUNK = 20_000
# Only canonical numbers are numbers: 007 is a code, and nan a word.
_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"
_DECIMAL = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?$"


class PayloadBuilder:
    """Gathers the values of rows; chunks keep what Python objects hold in memory small.

    Args:
        texts: columns whose values stay texts, whatever they look like.
    """

    def __init__(self, *, texts: Collection[str]) -> None:
        self._texts = frozenset(texts)
        self._rows: list[Mapping[str, object]] = []
        self._untyped = False
        self._chunks: list[tuple[dict[str, pa.Array], int, bool]] = []

    def add(self, values: Mapping[str, object], *, untyped: bool) -> None:
        """Add a row's values; `untyped` when its source has only texts (csv)."""
        if self._rows and (untyped != self._untyped or len(self._rows) >= _CHUNK):
            self._flush()
        self._untyped = untyped
        self._rows.append(values)

    def _flush(self) -> None:
        names = dict.fromkeys(name for values in self._rows for name in values)
        columns = {name: _infer([values.get(name) for values in self._rows]) for name in names}
        self._chunks.append((columns, len(self._rows), self._untyped))
        self._rows = []

    def table(self) -> pa.Table:
        """Return all rows; a column of types that Arrow cannot unite holds texts, JSON for what is none."""
        import pyarrow as pa

        if self._rows:
            self._flush()
        names = dict.fromkeys(name for columns, _, _ in self._chunks for name in columns)
        return pa.table({name: self._column(name) for name in names})

    def _column(self, name: str) -> pa.ChunkedArray:
        import pyarrow as pa

        chunks = [columns.get(name, pa.nulls(rows)) for columns, rows, _ in self._chunks]
        untyped = [at for at, (columns, _, plain) in enumerate(self._chunks) if plain and name in columns]
        if name not in self._texts and not _names_an_id(name):
            kind = _number_type([chunks[index] for index in untyped])
            for index in untyped if kind is not None else ():
                chunks[index] = _blank_as_null(chunks[index]).cast(kind)
        return _united(chunks)


def _names_an_id(column: str) -> bool:
    words = column.lower().replace("-", "_").split("_")
    return not {"id", "ids", "asin", "ean", "gtin", "isbn", "sku", "upc"}.isdisjoint(words)


def _infer(values: list[object]) -> pa.Array:
    """Return the values with the type that Arrow finds, or as texts.

    Objects are always JSON texts: as Arrow structs, ids for keys would make a column of every one of them.
    """
    import pyarrow as pa

    if not any(isinstance(value, dict) for value in values):
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            pass
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)


def _number_type(chunks: list[pa.Array]) -> pa.DataType | None:
    """Return int64 or float64 when every text of the chunks that is not blank is one; None otherwise."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if any(not pa.types.is_string(chunk.type) for chunk in chunks):
        return None
    values = pa.chunked_array([_blank_as_null(chunk).drop_null() for chunk in chunks], pa.string())
    if not len(values):
        return None
    for pattern, kind in ((_INTEGER, pa.int64()), (_DECIMAL, pa.float64())):
        if pc.all(pc.match_substring_regex(values, pattern)).as_py():
            return kind
    return None


def _blank_as_null(chunk: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(pc.equal(chunk, ""), pa.scalar(None, pa.string()), chunk)


def _united(chunks: list[pa.Array]) -> pa.ChunkedArray:
    """Return the chunks as one column: of a type that holds them all exactly, or else as texts."""
    import pyarrow as pa

    tables = [pa.table({"column": chunk}) for chunk in chunks]
    try:
        column = pa.concat_tables(tables, promote_options="permissive")["column"]
    except pa.ArrowException:
        texts = [pa.array([_text(value) for value in chunk.to_pylist()], pa.string()) for chunk in chunks]
        return pa.chunked_array(texts)
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column
