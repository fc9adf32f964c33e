"""Find column types that hold the payload of all chunks of a catalogue."""

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
        columns: Columns that some row has, by name; each (rows,), in the type of its values.
        rows: Number of rows.
        untyped: Whether the rows come from a source with texts only (csv).
    """

    columns: Mapping[str, pa.Array]
    rows: int
    untyped: bool


@dataclass(frozen=True)
class KnownColumns:
    """Columns of the old products: of the index that an upsert changes, or of the version before a build.

    Attributes:
        types: Name to type; `pa.null()` for a column that has never had a value.
        version: Number of the index version.
        binding: Whether the types are kept (upsert) or only compared with the new ones (build).
    """

    types: Mapping[str, pa.DataType]
    version: int
    binding: bool


class Misfit(NamedTuple):
    """A value that does not fit the type of its column, in a row of a chunk."""

    row: int
    column: str
    value: object
    rule: str


class PayloadTypes:
    """Finder of the types that hold a payload; it reads chunk by chunk and casts the chunks to these types.

    Call `add` for every chunk, then `settle` with all of them again, then `cast` for each. Between chunks,
    memory holds types, counts and the first value of each kind only.

    A column of untyped sources becomes numbers, true or false, or dates if every value that is not blank is
    one and would be written back unchanged; a column in `texts` or with a name like an id stays texts. Types
    that Arrow cannot unite without loss become texts, and other values JSON. A column without values has the
    type that its source declares, or no type.

    Args:
        texts: Columns that stay texts, even if their values look like numbers.
        known: Columns of the products before.
        leave_out: Whether to leave out rows with values that would change the kind of a known column, if they
            are fewer than half. Binding types always leave them out.
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
        """Columns with a changed kind of values; filled by `settle`."""
        self.notes: list[str] = []
        """Remarks on columns that look like numbers but hold texts; filled by `settle`."""

    def add(
        self,
        columns: Mapping[str, InferredColumn],
        *,
        rows: int,
        untyped: bool,
        place: Callable[[int], str],
    ) -> None:
        """Record the values of a chunk.

        Args:
            columns: Columns of the chunk.
            rows: Number of its rows.
            untyped: Whether its source has texts only.
            place: Function that returns the place of a row of the chunk, for messages.
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
            chunks: The chunks that `add` recorded; read only if a column has types that may not unite.
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
        """Compare a column's type with its old type; keep the old type if it is binding or more frequent."""
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
        """Return the columns of a chunk in the schema that `settle` returned, and the misfits.

        A misfit is a value that does not fit the kept type of its column; it becomes null.
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
    """Return the known type, or the type that holds both if numbers of another type were added."""
    import pyarrow as pa

    if not (pa.types.is_integer(before) or pa.types.is_floating(before)):
        return before
    return _united_type([before, now]) or before


def _united_type(types: Sequence[pa.DataType]) -> pa.DataType | None:
    """Return the type to which all types can be promoted, null for no types; None if there is none."""
    import pyarrow as pa

    schemas = [pa.schema([("column", kind)]) for kind in types or [pa.null()]]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("column").type
    except pa.ArrowException:
        return None


def _names_an_id(column: str) -> bool:
    words = column.lower().replace("-", "_").split("_")
    return not {"id", "ids", "asin", "ean", "gtin", "isbn", "sku", "upc"}.isdisjoint(words)
