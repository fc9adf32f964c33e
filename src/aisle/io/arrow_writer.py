"""Write records to an Arrow file one by one, and read them back memory-mapped."""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from aisle.errors import DataError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

__all__ = ["BATCH_SIZE", "Spool", "value_size", "writing"]

BATCH_SIZE = 2**25
"""Largest total size of the values in a batch, by `value_size`.

An Arrow string column holds 2 GiB of text per batch; this is far below, so memory stays flat with long texts.
"""

_BATCH_RECORDS = 10_000
# Records after which the size of the batch is measured again.
_MEASURED = 50
# Size of an item besides its text, in characters: a pointer or a number.
_ITEM = 8


def value_size(values: Iterable[object]) -> int:
    """Return the approximate memory of values, in characters of text, including the items of lists."""
    size = 0
    for value in values:
        size += _ITEM
        if isinstance(value, (str, bytes)):
            size += len(value)
        elif isinstance(value, list):
            size += value_size(value)
        elif isinstance(value, dict):
            size += value_size(value) + value_size(value.values())
    return size


@contextmanager
def writing(path: Path, *, what: str, mend: str) -> Iterator[None]:
    """Turn a failed write, for example on a full disk, into an error that names the file.

    Args:
        path: Path of the file that is written.
        what: Content of the file, in the plural.
        mend: Advice, as an imperative sentence.

    Raises:
        DataError: The system refuses to write.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataError(f"{path}: the {what} cannot be written: {reason}. {mend}") from None


class Spool:
    """A context that writes records to a new Arrow file; after an error the file is removed.

    Args:
        folder: Folder of the file. None is the system's temporary folder, from which `finish` removes the
            file, whatever becomes of the process; its records stay until they are no longer used.
        columns: Columns of a record to the names of their Arrow types, such as `string` or `list<string>`.

    Raises:
        DataError: The folder cannot be written to.
    """

    def __init__(self, folder: Path | None, columns: Mapping[str, str]) -> None:
        import pyarrow as pa

        self.count = 0
        self._schema = pa.schema([(name, _arrow_type(kind)) for name, kind in columns.items()])
        self._records: list[tuple[object, ...]] = []
        self._size = 0
        self._temporary = folder is None
        self._path = _new_file(Path(tempfile.gettempdir()) if folder is None else folder)
        with self._writing():
            self._sink = pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_stream(self._sink, self._schema)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On a full disk, closing fails too; the first error has the cause.
        with suppress(OSError):
            self._sink.close()
        if kind is not None:
            self._path.unlink(missing_ok=True)

    def add(self, record: tuple[object, ...]) -> None:
        """Write a record, with its values in the order of the columns.

        Raises:
            DataError: The file cannot be written, for example on a full disk.
        """
        self._records.append(record)
        self.count += 1
        if self.count % _MEASURED == 0:
            self._size += sum(map(value_size, self._records[-_MEASURED:]))
            if len(self._records) >= _BATCH_RECORDS or self._size >= BATCH_SIZE:
                self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._records:
            return
        columns = [
            pa.array(column, type=field.type)
            for column, field in zip(zip(*self._records, strict=True), self._schema, strict=True)
        ]
        with self._writing():
            self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._records.clear()
        self._size = 0

    def finish(self) -> datasets.Dataset:
        """Return all records, memory-mapped.

        Raises:
            DataError: The file cannot be written, for example on a full disk.
        """
        import datasets

        self._flush()
        with self._writing():
            self._writer.close()
            self._sink.close()
        table = datasets.Dataset.from_file(str(self._path))
        if self._temporary:
            _remove(self._path)
        return table

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self._path, what="pairs", mend="Free some space or name another cache folder.")


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    if kind.startswith("list<"):
        return pa.list_(pa.type_for_alias(kind[len("list<") : -1]))
    return pa.type_for_alias(kind)


def _new_file(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="aisle-pairs-", suffix=".arrow", dir=folder)
    except OSError as error:
        raise DataError(f"{folder}: the cache folder cannot be written to: {error.strerror}.") from None
    os.close(handle)
    return Path(name)


def _remove(mapped: Path) -> None:
    """Remove a memory-mapped file: now, or at exit where the system refuses it before (Windows)."""
    try:
        mapped.unlink()
    except PermissionError:
        atexit.register(partial(mapped.unlink, missing_ok=True))
