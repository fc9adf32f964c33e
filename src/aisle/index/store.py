"""The files of an index: embeddings, node numbers, products; written as streams, checked, memory-mapped."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from aisle.errors import DataError, IndexIntegrityError, IndexStoreError, ModelError
from aisle.index.exact import FloatArray, Rows

__all__ = [
    "ID_COLUMN",
    "make_products",
    "rank_ids",
    "read_array",
    "read_products",
    "write_embeddings",
    "write_nodes",
    "write_products",
    "writing",
]

ID_COLUMN = "product_id"
NORM_TOLERANCE = 1e-3


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write into one error that names the file.

    Raises:
        IndexStoreError: the system refused to write.
    """
    try:
        yield
    except OSError as error:
        mend = (
            "free some space" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "check path and permissions"
        )
        raise IndexStoreError(
            f"{path}: could not be written: {error.strerror or error}; {mend} and build again; "
            "an index that was there before is untouched"
        ) from error


def make_products(product_ids: Sequence[str], payload: pa.Table) -> pa.Table:
    """Return the table of product ids and payload that `products.arrow` holds.

    Raises:
        DataError: there are no products, an id is not text, blank or there twice, the payload has another
            number of rows, a column twice, or a column called product_id.
    """
    _check_ids(product_ids)
    names = payload.column_names
    if ID_COLUMN in names or len(set(names)) != len(names):
        raise DataError(
            f"payload: columns must differ from each other and from {ID_COLUMN!r}, found {names}; rename them"
        )
    if names and payload.num_rows != len(product_ids):
        raise DataError(
            f"payload: one row per product is needed, found {payload.num_rows} rows for {len(product_ids)} "
            "products"
        )
    try:
        ids = pa.array(list(product_ids), pa.string())
    except UnicodeEncodeError as error:
        raise DataError(
            f"product_id {error.object!r}: not valid Unicode; repair the catalogue's encoding"
        ) from None
    columns = {ID_COLUMN: ids, **{name: payload.column(name) for name in names}}
    # One batch: taking rows from a column in many chunks copies the whole column in some versions of Arrow.
    return pa.table(columns).combine_chunks()


def rank_ids(products: pa.Table) -> Rows:
    """Return the (count,) place of each product's id among the sorted ids (by code point)."""
    order = pa.compute.sort_indices(products.column(ID_COLUMN)).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def write_products(path: Path, products: pa.Table) -> None:
    """Write the products as an Arrow IPC file.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as sink, pa.ipc.new_file(sink, products.schema) as writer:
        writer.write_table(products)


def read_products(path: Path, *, count: int) -> pa.Table:
    """Return the memory-mapped products.

    Raises:
        IndexIntegrityError: not an Arrow file of `count` rows with a text column product_id.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid as error:
        raise IndexIntegrityError(
            f"{path}: must be an Arrow IPC file: {error}; build the index again"
        ) from None
    has_ids = ID_COLUMN in table.column_names and table.schema.field(ID_COLUMN).type == pa.string()
    if not has_ids or table.num_rows != count:
        raise IndexIntegrityError(
            f"{path}: must have {count} rows and a string column {ID_COLUMN!r}, found {table.num_rows} rows "
            f"and columns {table.column_names}; build the index again"
        )
    return table


def write_embeddings(
    path: Path,
    embeddings: Iterable[npt.NDArray[np.float32]],
    *,
    product_ids: Sequence[str],
    dim: int,
    store_dtype: Literal["float32", "float16"],
) -> None:
    """Write chunks of embeddings to one array file as they come, holding one chunk in memory.

    Args:
        path: file to write.
        embeddings: chunks of (n, dim) float32, unit L2 norm, in the order of `product_ids`.
        product_ids: names the products in errors; as many as there must be embeddings.
        dim: components of an embedding.
        store_dtype: type in the file.

    Raises:
        ModelError: an embedding is of another dim, not finite or not of unit norm.
        DataError: there are more or fewer embeddings than products.
        IndexStoreError: the file cannot be written.
    """
    count, done = len(product_ids), 0
    header = io.BytesIO()
    described = {"descr": np.dtype(store_dtype).str, "fortran_order": False, "shape": (count, dim)}
    np.lib.format.write_array_header_1_0(header, described)
    # Unbuffered, and guarded write by write: an OSError of `embeddings` itself is not ours to explain.
    with writing(path):
        file = path.open("wb", buffering=0)
    with file:
        _write_all(file, header.getvalue(), path)
        for chunk in embeddings:
            _check_chunk(chunk, product_ids[done : done + len(chunk)], dim=dim, first=done, count=count)
            _write_all(file, np.ascontiguousarray(chunk, dtype=store_dtype).tobytes(), path)
            done += len(chunk)
    if done < count:
        raise DataError(
            f"embeddings: one per product is needed, found {done} for {count} products; "
            f"the first without one is product_id {product_ids[done]!r}"
        )


def write_nodes(path: Path, node_of_row: Rows) -> None:
    """Write the (count,) node numbers.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        np.save(file, node_of_row, allow_pickle=False)


def read_array(path: Path, *, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Return a memory-mapped array.

    Raises:
        IndexIntegrityError: not an array file, or of another shape or type.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise IndexIntegrityError(
            f"{path}: must be a NumPy array file: {error}; build the index again"
        ) from None
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise IndexIntegrityError(
            f"{path}: the manifest says {dtype} of shape {shape}, found {array.dtype} of shape "
            f"{array.shape}; build the index again"
        )
    # Plain arrays over the same map: slicing np.memmap costs a Python call for each view.
    return np.asarray(array)


def _write_all(file: io.FileIO, content: bytes, path: Path) -> None:
    """Write all of `content`; a raw file may take less at a time."""
    rest = memoryview(content)
    with writing(path):
        while rest:
            rest = rest[file.write(rest) :]


def _check_ids(product_ids: Sequence[str]) -> None:
    """Raise unless there are ids, all of them text, none blank and none there twice."""
    if not len(product_ids):
        raise DataError("product_ids: an index needs at least one product, found none")
    row_of: dict[str, int] = {}
    for row, product_id in enumerate(product_ids):
        if not isinstance(product_id, str) or not product_id.strip():
            raise DataError(f"product_id {product_id!r} of row {row}: an id must be text and not blank")
        if product_id in row_of:
            raise DataError(
                f"product_id {product_id!r}: ids must be unique, found it in rows {row_of[product_id]} and "
                f"{row}; drop one of them"
            )
        row_of[product_id] = row


def _check_chunk(chunk: FloatArray, product_ids: Sequence[str], *, dim: int, first: int, count: int) -> None:
    """Raise unless the chunk is (n, dim) finite unit vectors for the products at `first` and after."""
    if chunk.ndim != 2 or chunk.shape[1] != dim or chunk.dtype.kind != "f":
        at = f"at product_id {product_ids[0]!r}" if product_ids else f"after the last of {count} products"
        raise ModelError(
            f"embeddings {at}: chunks must be (n, {dim}) float32, found {chunk.shape} {chunk.dtype}; "
            "use the encoder that the index is built for"
        )
    if first + len(chunk) > count:
        raise DataError(
            f"embeddings: one per product is needed, found {first + len(chunk)} or more for {count}"
        )
    norms = np.linalg.norm(chunk.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))  # also catches NaN and infinity
    if len(wrong):
        row = int(wrong[0])
        raise ModelError(
            f"embedding of product_id {product_ids[row]!r} (row {first + row}): must be finite and of norm 1 "
            f"within {NORM_TOLERANCE}, found norm {norms[row]:.6g}; normalise embeddings, check the weights"
        )
