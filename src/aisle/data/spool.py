"""Records written to an Arrow file as they come, and read back memory-mapped."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from aisle.errors import DataError

if TYPE_CHECKING:
    import datasets

__all__ = ["Spool"]

_BATCH = 10_000
# Records between two looks at the size of the batch.
_MEASURED = 50
# An Arrow string column holds 2 GiB of text per batch; far below that, memory stays flat with long texts too.
_BATCH_CHARACTERS = 2**25


class Spool:
    """A context that writes records to a new Arrow file, which is removed when an error leaves the context.

    Args:
        folder: where the file is made; None is a temporary folder that goes when the process ends.
        columns: what a record holds: column to Arrow type, by name.

    Raises:
        DataError: the folder cannot be written to.
    """

    def __init__(self, folder: Path | None, columns: Mapping[str, str]) -> None:
        import pyarrow as pa

        self.count = 0
        self._schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])
        self._records: list[tuple[object, ...]] = []
        self._characters = 0
        self._path = _new_file(folder)
        self._writer = pa.ipc.new_stream(str(self._path), self._schema)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is not None:
            self._path.unlink(missing_ok=True)

    def add(self, record: tuple[object, ...]) -> None:
        """Write one record, in the order of the columns."""
        self._records.append(record)
        self.count += 1
        if self.count % _MEASURED == 0:
            texts = (
                value for record in self._records[-_MEASURED:] for value in record if isinstance(value, str)
            )
            self._characters += sum(map(len, texts))
            if len(self._records) >= _BATCH or self._characters >= _BATCH_CHARACTERS:
                self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._records:
            return
        columns = [
            pa.array(column, type=field.type)
            for column, field in zip(zip(*self._records, strict=True), self._schema, strict=True)
        ]
        try:
            self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        except OSError as error:
            raise DataError(
                f"{self._path}: the pairs cannot be written: {error}. Name another cache folder."
            ) from None
        self._records.clear()
        self._characters = 0

    def finish(self) -> datasets.Dataset:
        """Return all records, memory-mapped."""
        import datasets

        self._flush()
        self._writer.close()
        return datasets.Dataset.from_file(str(self._path))


def _new_file(folder: Path | None) -> Path:
    try:
        if folder is None:
            folder = _temporary_folder()
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="pairs-", suffix=".arrow", dir=folder)
    except OSError as error:
        raise DataError(f"{folder}: the cache folder cannot be written to: {error.strerror}.") from None
    os.close(handle)
    return Path(name)


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="aisle-"))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner: int) -> None:
    # A forked worker inherits the registration; only the process that made the folder takes it away.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
