"""Write a catalogue file in two passes: chunks with their inferred types, then all in one schema."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from aisle.data.payload import KnownColumns, Misfit, PayloadChunk, PayloadTypes
from aisle.data.payload_values import infer_columns
from aisle.data.product_rows import CELLS, Product
from aisle.data.rows import BadRowLog, Problem, Row, place
from aisle.io.arrow_writer import writing
from aisle.io.durable import sync
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CatalogChunks"]

# Columns of a stored chunk before its payload: id, text, and source, row and line for reports.
_HEAD = (ID_COLUMN, TEXT_COLUMN, "source", "number", "line")


class _Stored(NamedTuple):
    """Offset of a chunk in the file of chunks, in bytes, and whether its source has texts only."""

    offset: int
    untyped: bool


class CatalogChunks:
    """Context manager that writes products to disk in chunks, and finally to a file with a single schema.

    The type of a column is known only after its last value, so products are written twice. The chunks are
    Arrow streams in a temporary file, which is removed when the context ends. Between chunks, memory holds
    only their offsets and the payload types.

    Args:
        path: Path of the file to write; `finish` puts it in place, and an earlier file stays until then.
        texts: Payload columns that stay texts, even if their values look like numbers.
        left_out: Payload column to leave out of the file; None for no column.
        known: Columns of the products before.
        leave_out: Whether to leave out rows whose values change the kind of a known column; see
            `PayloadTypes`.

    Raises:
        DataError: The folder cannot be written to.
    """

    def __init__(
        self,
        path: Path,
        *,
        texts: Sequence[str],
        left_out: str | None,
        known: KnownColumns | None = None,
        leave_out: bool = False,
    ) -> None:
        self.count = 0
        self._path = path
        self._beside = path.with_name(f".{path.name}.writing")
        self._chunk_path = path.with_name(f".{path.name}.chunks")
        self.types = PayloadTypes(texts=texts, known=known, leave_out=leave_out)
        self._left_out = left_out
        self._stored: list[_Stored] = []

    def __enter__(self) -> CatalogChunks:
        import pyarrow as pa

        with self._writing():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = pa.OSFile(str(self._chunk_path), "wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On a full disk, closing fails too; the first error has the cause.
        with suppress(OSError):
            self._sink.close()
        self._chunk_path.unlink(missing_ok=True)
        self._beside.unlink(missing_ok=True)

    def add(
        self,
        products: Sequence[tuple[Row, Product]],
        *,
        untyped: bool,
        declared: Mapping[str, pa.DataType] | None = None,
    ) -> None:
        """Write a chunk of products, each with its row.

        Args:
            products: Rows and products; memory must hold them twice.
            untyped: Whether the source of all rows has texts only (csv).
            declared: Types that the source declares.

        Raises:
            DataError: The file cannot be written, for example on a full disk.
        """
        import pyarrow as pa

        if not products:
            return
        inferred = infer_columns(
            [product.payload for _, product in products], left_out=self._left_out, declared=declared
        )

        def place_in(number: int) -> str:
            row = products[number][0]
            return place(row.source, row.number, row.line)

        self.types.add(inferred, rows=len(products), untyped=untyped, place=place_in)
        columns = {name: column.values for name, column in inferred.items()}
        head = [
            pa.array([product.product_id for _, product in products], pa.string()),
            pa.array([product.text for _, product in products], pa.string()),
            pa.array([row.source for row, _ in products], pa.string()).dictionary_encode(),
            pa.array([row.number for row, _ in products], pa.int64()),
            pa.array([row.line for row, _ in products], pa.int64()),
        ]
        batch = pa.RecordBatch.from_arrays([*head, *columns.values()], names=[*_HEAD, *columns])
        with self._writing():
            self._stored.append(_Stored(self._sink.tell(), untyped))
            with pa.ipc.new_stream(self._sink, batch.schema) as writer:
                writer.write_batch(batch)
        self.count += len(products)

    def place_of(self, product_id: str) -> str:
        """Return the place where the product with this id was read, for messages.

        Raises:
            KeyError: No chunk has the id.
        """
        import pyarrow.compute as pc

        for batch, _ in self._chunks():
            at = pc.index(batch.column(0), product_id).as_py()
            if at >= 0:
                source, number, line = (batch.column(column)[at].as_py() for column in (2, 3, 4))
                return place(source, number, line)
        raise KeyError(product_id)

    def write(self, log: BadRowLog) -> None:
        """Write the file under a temporary name, without rows whose values do not fit the column types.

        Args:
            log: Log of the rows that are left out.

        Raises:
            DataError: The file cannot be written, for example on a full disk.
        """
        import pyarrow as pa

        payload = self.types.settle(_payload_chunk(batch, stored) for batch, stored in self._chunks())
        fields = [pa.field(ID_COLUMN, pa.string()), pa.field(TEXT_COLUMN, pa.string()), *payload]
        schema = pa.schema(fields)
        with (
            self._writing(),
            pa.OSFile(str(self._beside), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            for batch in self._typed_batches(schema, log):
                writer.write_batch(batch)

    def finish(self) -> None:
        """Move the written file to its final name.

        Raises:
            DataError: If the file cannot be moved, for example on a full disk.
        """
        with self._writing():
            sync(self._beside)
            os.replace(self._beside, self._path)
            sync(self._path.parent)

    def _typed_batches(self, schema: pa.Schema, log: BadRowLog) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        rows = max(1, CELLS // len(schema))
        for batch, stored in self._chunks():
            for first in range(0, batch.num_rows, rows):
                part = batch.slice(first, rows)
                columns, misfits = self.types.cast(_payload_chunk(part, stored))
                typed = pa.RecordBatch.from_arrays([part.column(0), part.column(1), *columns], schema=schema)
                yield self._without(typed, part, misfits, log) if misfits else typed

    def _without(
        self, typed: pa.RecordBatch, part: pa.RecordBatch, misfits: Sequence[Misfit], log: BadRowLog
    ) -> pa.RecordBatch:
        """Return a batch without the rows that have misfits; log the first misfit of each row."""
        import pyarrow as pa

        first = {misfit.row: misfit for misfit in reversed(misfits)}
        for number, misfit in sorted(first.items()):
            source, row, line = (part.column(column)[number].as_py() for column in (2, 3, 4))
            log.add(Row(source, row, {}, line), Problem(f"{misfit.column} {misfit.rule}", misfit.value))
        self.count -= len(first)
        return typed.filter(pa.array([number not in first for number in range(len(typed))]))

    def _chunks(self) -> Iterator[tuple[pa.RecordBatch, _Stored]]:
        """Yield the stored chunks, memory-mapped."""
        import pyarrow as pa

        if not self._stored:
            return
        with pa.memory_map(str(self._chunk_path)) as source:
            for stored in self._stored:
                source.seek(stored.offset)
                with pa.ipc.open_stream(source) as reader:
                    yield reader.read_next_batch(), stored

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self._path, what="products", mend="Free some space or name another folder.")


def _payload_chunk(batch: pa.RecordBatch, stored: _Stored) -> PayloadChunk:
    names = batch.schema.names[len(_HEAD) :]
    columns = dict(zip(names, batch.columns[len(_HEAD) :], strict=True))
    return PayloadChunk(columns, batch.num_rows, stored.untyped)
