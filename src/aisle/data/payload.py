"""The catalogue's payload: columns of any type, in chunks, and the types that hold all chunks of a column."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PayloadChunk", "PayloadTypes", "infer_columns"]

# Only canonical numbers are numbers: 007 is a code, and nan a word.
_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"
_DECIMAL = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?$"


@dataclass(frozen=True)
class PayloadChunk:
    """Consecutive rows of the payload.

    Attributes:
        columns: those that some row has, by name; each (rows,), with the type that its values have.
        rows: how many.
        untyped: whether the rows are of a source that has only texts (csv).
    """

    columns: Mapping[str, pa.Array]
    rows: int
    untyped: bool


def infer_columns(rows: Sequence[Mapping[str, object]], *, left_out: str | None) -> dict[str, pa.Array]:
    """Return the columns of rows, each with the type that Arrow finds for its values, or as texts.

    Args:
        rows: column to value; a column that a row does not have is null there.
        left_out: a column that is none of the payload.
    """
    names = dict.fromkeys(name for values in rows for name in values if name != left_out)
    return {name: _infer([values.get(name) for values in rows]) for name in names}


@dataclass
class _Found:
    """What is known of a column: its types, each once, beside whether its source had only texts."""

    types: dict[tuple[pa.DataType, bool], None] = field(default_factory=dict)
    numbers: list[tuple[str, pa.DataType]] = field(default_factory=lambda: list(_number_patterns()))
    blank: bool = True

    @property
    def number_type(self) -> pa.DataType | None:
        """int64 or float64 when every text of untyped sources that is not blank is one; None otherwise."""
        return None if self.blank or not self.numbers else self.numbers[0][1]

    def add(self, chunk: pa.Array, *, untyped: bool) -> None:
        self.types[chunk.type, untyped] = None
        if untyped and self.numbers:
            self._keep_numbers(chunk)

    def _keep_numbers(self, chunk: pa.Array) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        if not pa.types.is_string(chunk.type):
            self.numbers = []
            return
        values = _blank_as_null(chunk).drop_null()
        if len(values):
            self.blank = False
            self.numbers = [
                (pattern, kind)
                for pattern, kind in self.numbers
                if pc.all(pc.match_substring_regex(values, pattern)).as_py()
            ]


class PayloadTypes:
    """Finds the types that hold a payload, chunk by chunk, and gives the chunks these types.

    First every chunk is shown to `add`, then `settle` looks at all of them once more, and `cast` gives each
    its columns. Between chunks only types are held.

    A column of untyped sources becomes one of numbers when every value that is not blank is a number, but
    never when it is among `texts` or named like an id. Types that Arrow cannot unite without loss become
    texts, JSON for what is none.

    Args:
        texts: columns whose values stay texts, whatever they look like.
    """

    def __init__(self, *, texts: Collection[str]) -> None:
        self._texts = frozenset(texts)
        self._found: dict[str, _Found] = {}
        self._types: dict[str, pa.DataType | None] = {}

    def add(self, chunk: PayloadChunk) -> None:
        """Take note of a chunk's types."""
        for name, column in chunk.columns.items():
            if name not in self._found:
                is_text = name in self._texts or _names_an_id(name)
                self._found[name] = _Found(numbers=[]) if is_text else _Found()
            self._found[name].add(column, untyped=chunk.untyped)

    def settle(self, chunks: Iterable[PayloadChunk]) -> pa.Schema:
        """Return the names and types of all columns.

        Args:
            chunks: all that `add` was shown; read only when a column has types that may not unite.
        """
        import pyarrow as pa

        self._types = {name: _united_type(self._known_types(name)) for name in self._found}
        doubtful = {name for name, kind in self._types.items() if kind is not None and self._is_mixed(name)}
        for chunk in chunks if doubtful else ():
            for name in doubtful & chunk.columns.keys():
                try:
                    self._typed(name, chunk)
                except pa.ArrowException:
                    self._types[name] = None
                    doubtful.remove(name)
        types = {name: pa.string() if kind is None else kind for name, kind in self._types.items()}
        return pa.schema(list(types.items()))

    def cast(self, chunk: PayloadChunk) -> list[pa.Array]:
        """Return a chunk's columns in the order and with the types of the schema that `settle` returned."""
        return [self._typed(name, chunk) for name in self._types]

    def _known_types(self, name: str) -> list[pa.DataType]:
        found = self._found[name]
        number = found.number_type
        return [number if untyped and number is not None else kind for kind, untyped in found.types]

    def _is_mixed(self, name: str) -> bool:
        import pyarrow as pa

        return any(kind not in (self._types[name], pa.null()) for kind in self._known_types(name))

    def _typed(self, name: str, chunk: PayloadChunk) -> pa.Array:
        import pyarrow as pa

        kind = self._types[name]
        if name not in chunk.columns:
            return pa.nulls(chunk.rows, pa.string() if kind is None else kind)
        column, number = chunk.columns[name], self._found[name].number_type
        if chunk.untyped and number is not None:
            column = _blank_as_null(column).cast(number)
        if kind is None:
            return pa.array([_text(value) for value in column.to_pylist()], pa.string())
        return column.cast(kind)


def _number_patterns() -> tuple[tuple[str, pa.DataType], ...]:
    import pyarrow as pa

    return (_INTEGER, pa.int64()), (_DECIMAL, pa.float64())


def _united_type(types: Sequence[pa.DataType]) -> pa.DataType | None:
    """Return the type to which all can be promoted, text for nulls alone; None when there is none."""
    import pyarrow as pa

    schemas = [pa.schema([("column", kind)]) for kind in types]
    try:
        united = pa.unify_schemas(schemas, promote_options="permissive").field("column").type
    except pa.ArrowException:
        return None
    return pa.string() if pa.types.is_null(united) else united


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


def _blank_as_null(chunk: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(pc.equal(chunk, ""), pa.scalar(None, pa.string()), chunk)
