"""Array files of an index: written as streams, checked, and memory-mapped."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from aisle.errors import DataError, IndexIntegrityError, IndexStoreError, ModelError
from aisle.index.manifest import MARKS_FILE, QUERIES_FILE
from aisle.index.scoring import FloatArray
from aisle.types.choices import StoreDtype
from aisle.types.columns import ID_COLUMN

__all__ = [
    "link_files",
    "read_array",
    "read_marks",
    "read_queries",
    "write_array",
    "write_embeddings",
    "writing",
]

NORM_TOLERANCE = 1e-3


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write into an error that names the file.

    Raises:
        IndexStoreError: The file cannot be written.
    """
    try:
        yield
    except OSError as error:
        mend = (
            "free some space" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "check path and permissions"
        )
        raise IndexStoreError(
            f"{path}: could not be written: {error.strerror or error}; {mend} and try again; "
            "the current version is unchanged"
        ) from error


def write_embeddings(
    path: Path,
    embeddings: Iterable[npt.NDArray[np.float32]],
    *,
    products: pa.Table,
    dim: int,
    store_dtype: StoreDtype,
) -> None:
    """Write chunks of embeddings to an array file, with one chunk in memory at a time.

    Args:
        path: File to write.
        embeddings: Chunks of (n, dim) float32, unit L2 norm, in the order of `products`.
        products: Table of the products, for their number and for the ids in messages.
        dim: Components of an embedding.
        store_dtype: Number type in the file.

    Raises:
        ModelError: An embedding has the wrong length, is not finite, or is not of unit norm.
        DataError: There are more or fewer embeddings than products.
        IndexStoreError: The file cannot be written.
    """
    count, done = products.num_rows, 0
    header = io.BytesIO()
    described = {"descr": np.dtype(store_dtype).str, "fortran_order": False, "shape": (count, dim)}
    np.lib.format.write_array_header_1_0(header, described)
    # Unbuffered, and only the writes are guarded: an OSError raised by `embeddings` must pass unchanged.
    with writing(path):
        file = path.open("wb", buffering=0)
    with file:
        _write_all(file, header.getvalue(), path)
        for chunk in embeddings:
            _check_chunk(chunk, products, dim=dim, first=done)
            _write_all(file, np.ascontiguousarray(chunk, dtype=store_dtype).tobytes(), path)
            done += len(chunk)
    if done < count:
        raise DataError(
            f"embeddings: one per product is needed, found {done} for {count} products; "
            f"the first without one is product_id {_id_at(products, done)!r}"
        )


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array file.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path, *, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Return a memory-mapped array.

    Raises:
        IndexIntegrityError: The file is not an array file, or its shape or type differs.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise IndexIntegrityError(
            f"{path}: must be a NumPy array file: {error}; build the index again"
        ) from None
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise IndexIntegrityError(
            f"{path}: the manifest records {dtype} of shape {shape}, found {array.dtype} of shape "
            f"{array.shape}; build the index again"
        )
    # A plain array over the same memory: slicing np.memmap costs a Python call for each view.
    return np.asarray(array)


def read_queries(folder: Path, *, dim: int) -> npt.NDArray[np.float32]:
    """Return the (queries, dim) held-out queries of a version.

    Raises:
        IndexIntegrityError: The file does not hold (queries, dim) float32.
    """
    path = folder / QUERIES_FILE
    try:
        queries: npt.NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise IndexIntegrityError(
            f"{path}: must be a NumPy array file: {error}; build the index again"
        ) from None
    if queries.ndim != 2 or queries.shape[1] != dim or queries.dtype != np.float32 or not len(queries):
        raise IndexIntegrityError(
            f"{path}: must hold (queries, {dim}) float32, found {queries.shape} {queries.dtype}; build the "
            "index again"
        )
    return queries


def _write_all(file: io.FileIO, content: bytes, path: Path) -> None:
    """Write all of `content`: a single write to a raw file may be partial."""
    rest = memoryview(content)
    with writing(path):
        while rest:
            rest = rest[file.write(rest) :]


def _id_at(products: pa.Table, row: int) -> str:
    found: str = products.column(ID_COLUMN)[row].as_py()
    return found


def _check_chunk(chunk: FloatArray, products: pa.Table, *, dim: int, first: int) -> None:
    """Check that a chunk has (n, dim) finite unit vectors for the products from `first` on."""
    count = products.num_rows
    if chunk.ndim != 2 or chunk.shape[1] != dim or chunk.dtype.kind != "f":
        known = first < count
        at = f"at product_id {_id_at(products, first)!r}" if known else f"after the last of {count} products"
        raise ModelError(
            f"embeddings {at}: chunks must be (n, {dim}) float32, found {chunk.shape} {chunk.dtype}; "
            "use the encoder of the index"
        )
    if first + len(chunk) > count:
        raise DataError(
            f"embeddings: one per product is needed, found {first + len(chunk)} or more for {count}"
        )
    norms = np.linalg.norm(chunk.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))  # also catches NaN and infinity
    if len(wrong):
        row = first + int(wrong[0])
        raise ModelError(
            f"embedding of product_id {_id_at(products, row)!r} (row {row}): must be finite and of norm 1 "
            f"within {NORM_TOLERANCE}, found norm {norms[wrong[0]]:.6g}; normalise embeddings, check the "
            "weights"
        )


def link_files(source: Path, target: Path, names: Sequence[str]) -> None:
    """Hard-link files of a version into another version, or copy them if the file system has no links."""
    with writing(target):
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / name, target / name)
            except OSError:
                shutil.copyfile(source / name, target / name)


def read_marks(folder: Path, *, count: int) -> npt.NDArray[np.uint8] | None:
    """Return the (count,) marks of a version's texts; None if the texts were not marked.

    Raises:
        IndexIntegrityError: The file is damaged.
    """
    if not (folder / MARKS_FILE).exists():
        return None
    marks: npt.NDArray[np.uint8] = read_array(folder / MARKS_FILE, shape=(count,), dtype="uint8")
    return marks
