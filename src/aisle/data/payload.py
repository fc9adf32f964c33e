"""The catalogue's payload: columns of any type, in chunks, and the types that hold all chunks of a column."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aisle.data.column_values import ColumnValues, Seen
from aisle.data.payload_values import InferredColumn, as_text, fitted, kind_rule
from aisle.data.text_values import read_texts
from aisle.data.type_change import TypeChange
from aisle.types.columns import NOTE_KEY, kind_of_type

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "KnownColumns",
    "Misfit",
    "PayloadChunk",
    "PayloadTypes",
]


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


@dataclass(frozen=True)
class KnownColumns:
    """Columns of the products before: of the index that is changed, or of the version before a build.

    Attributes:
        types: name to type; `pa.null()` is that of a column which never had a value.
        version: number of the index's version.
        binding: whether the types are kept (an upsert), or only compared with the new ones (a build).
    """

    types: Mapping[str, pa.DataType]
    version: int
    binding: bool


class Misfit(NamedTuple):
    """A value that is not of its column's type, in a row of a chunk."""

    row: int
    column: str
    value: object
    rule: str


class PayloadTypes:
    """Finds the types that hold a payload, chunk by chunk, and gives the chunks these types.

    First every chunk is shown to `add`, then `settle` looks at all of them once more, and `cast` gives each
    its columns. Between chunks only types, counts and the first value of each kind are held.

    A column of untyped sources becomes one of numbers, of true or false, or of dates when every value that
    is not blank is one and would be written again as it is; but never when it is among `texts` or named like
    an id. Types that Arrow cannot unite without loss become texts, JSON for what is none. A column without
    a value has the type that its source declares, or else none.

    Args:
        texts: columns whose values stay texts, whatever they look like.
        known: columns of the products before.
        leave_out: leave out rows with values that turn a known column into another kind, where they are
            fewer than half; types that are binding always do.
    """

    def __init__(
        self, *, texts: Collection[str], known: KnownColumns | None = None, leave_out: bool = False
    ) -> None:
        self._texts = frozenset(texts)
        self._known = known
        self._leave_out = leave_out
        self._found: dict[str, ColumnValues] = {}
        self._types: dict[str, pa.DataType | None] = {}
        self._enforced: dict[str, str] = {}
        self._rows = 0
        self.changes: list[TypeChange] = []
        """Columns of another kind than before, once settled."""
        self.notes: list[str] = []
        """About columns that look like numbers and hold texts, once settled."""

    def add(
        self,
        columns: Mapping[str, InferredColumn],
        *,
        rows: int,
        untyped: bool,
        place: Callable[[int], str],
    ) -> None:
        """Take note of a chunk's values.

        Args:
            columns: of the chunk.
            rows: how many it has.
            untyped: whether its source has only texts.
            place: returns where a row of it is.
        """
        for name, column in columns.items():
            if name not in self._found:
                self._found[name] = ColumnValues(is_text=name in self._texts or _names_an_id(name))

            def find(row: int, values: pa.Array = column.values) -> Seen:
                return Seen(self._rows + row, values[row].as_py(), place(row))

            if untyped and column.kinds is None and kind_of_type(column.values.type) in {"texts", "nothing"}:
                self._found[name].add_texts(column.values.cast("string"), find)
            else:
                self._found[name].add_typed(column.values, find, kinds=column.kinds)
        self._rows += rows

    def settle(self, chunks: Iterable[PayloadChunk]) -> pa.Schema:
        """Return the names and types of all columns.

        Args:
            chunks: all that `add` was shown; read only when a column has types that may not unite.
        """
        import pyarrow as pa

        self._types = {name: self._united(name) for name in self._found}
        doubtful = {name for name, kind in self._types.items() if kind is not None and self._is_mixed(name)}
        for chunk in chunks if doubtful else ():
            for name in doubtful & chunk.columns.keys():
                try:
                    self._typed(name, chunk)
                except pa.ArrowException:
                    self._types[name] = None
                    doubtful.remove(name)
        for name in self._found:
            self._compare(name)
        fields = []
        for name, kind in self._types.items():
            note = None
            if kind_of_type(pa.string() if kind is None else kind) == "texts" and name not in self._enforced:
                note = self._found[name].note(name)
            if note is not None and name not in {change.column for change in self.changes if change.few}:
                self.notes.append(note)
            metadata = None if note is None else {NOTE_KEY: note.encode()}
            fields.append(pa.field(name, pa.string() if kind is None else kind, metadata=metadata))
        return pa.schema(fields)

    def _compare(self, name: str) -> None:
        """Compare a column's type with the one before; keep that one where it is binding or wins."""
        import pyarrow as pa

        before = None if self._known is None else self._known.types.get(name)
        if self._known is None or before is None or pa.types.is_null(before):
            return
        kind, now = kind_of_type(before), self._types[name]
        now_kind = "texts" if now is None else kind_of_type(now)
        found = self._found[name]
        if self._known.binding:
            self._types[name] = _widened(before, now) if now_kind == kind and now is not None else before
            self._enforced[name] = f"as the column is in the index ({before})"
        elif now_kind not in {kind, "nothing"}:
            misfits = found.total - found.counts[kind]
            enforced = self._leave_out and 0 < 2 * misfits < found.total and kind != "texts"
            self.changes.append(
                TypeChange(
                    column=name,
                    before=kind,
                    now=now_kind,
                    version=self._known.version,
                    others=misfits,
                    values=found.total,
                    first=found.first_unlike(kind),
                    left_out=enforced,
                )
            )
            if enforced:
                self._types[name] = before
                self._enforced[name] = f"as in version {self._known.version} ({before})"

    def cast(self, chunk: PayloadChunk) -> tuple[list[pa.Array], list[Misfit]]:
        """Return a chunk's columns in the order and with the types of the schema that `settle` returned.

        Values that are not of a column's kept type are null, and among the misfits.
        """
        import pyarrow.compute as pc

        columns, misfits = [], []
        for name, kind in self._types.items():
            if name not in self._enforced or name not in chunk.columns or kind is None:
                columns.append(self._typed(name, chunk))
                continue
            column, fits = fitted(chunk.columns[name], kind)
            columns.append(column)
            if fits is not None and not pc.all(fits).as_py():
                rule = f"{kind_rule(kind)}, {self._enforced[name]}"
                for row in pc.indices_nonzero(pc.invert(fits)).to_pylist():
                    value = chunk.columns[name][row].as_py()
                    misfits.append(Misfit(row, name, value, rule))
        return columns, misfits

    def _united(self, name: str) -> pa.DataType | None:
        import pyarrow as pa

        types = self._found[name].known_types()
        if not types and self._found[name].is_text:
            return pa.string()
        return _united_type(types)

    def _is_mixed(self, name: str) -> bool:
        return any(kind != self._types[name] for kind in self._found[name].known_types())

    def _typed(self, name: str, chunk: PayloadChunk) -> pa.Array:
        import pyarrow as pa

        kind = self._types[name]
        if name not in chunk.columns:
            return pa.nulls(chunk.rows, pa.string() if kind is None else kind)
        column, found = chunk.columns[name], self._found[name]
        if chunk.untyped and found.csv_kind != "texts" and pa.types.is_string(column.type):
            known = found.known_types()[-1]
            column, _ = read_texts(column, known)
        if kind is None:
            return pa.array([as_text(value) for value in column.to_pylist()], pa.string())
        return column.cast(kind)


def _widened(before: pa.DataType, now: pa.DataType) -> pa.DataType:
    """Return the known type, or where numbers of another type have come the one that holds both."""
    import pyarrow as pa

    if not (pa.types.is_integer(before) or pa.types.is_floating(before)):
        return before
    return _united_type([before, now]) or before


def _united_type(types: Sequence[pa.DataType]) -> pa.DataType | None:
    """Return the type to which all can be promoted, null for none at all; None where there is none."""
    import pyarrow as pa

    schemas = [pa.schema([("column", kind)]) for kind in types or [pa.null()]]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("column").type
    except pa.ArrowException:
        return None


def _names_an_id(column: str) -> bool:
    words = column.lower().replace("-", "_").split("_")
    return not {"id", "ids", "asin", "ean", "gtin", "isbn", "sku", "upc"}.isdisjoint(words)
