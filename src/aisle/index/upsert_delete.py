"""Add, replace and delete products of an index without a new build; each change makes a new version."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aisle.errors import DataError
from aisle.index.array_files import read_array, write_embeddings
from aisle.index.incremental import joined, stage_change
from aisle.index.layout import StrPath
from aisle.index.manifest import Manifest
from aisle.index.reader import open_index
from aisle.index.scoring import FloatArray
from aisle.index.search_index import SearchIndex
from aisle.index.writer import index_writer
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN
from aisle.types.sequences import as_sequence

__all__ = ["delete_products", "upsert_products"]

UPSERTED_FILE = "upserted.npy"


def upsert_products(
    index_dir: StrPath,
    *,
    products: pa.Table,
    embeddings: Iterable[npt.NDArray[np.float32]],
    fingerprint: str,
    marks: Callable[[], npt.NDArray[np.uint8]] | None = None,
    threads: int | None = None,
    keep_versions: int | None = None,
) -> Manifest:
    """Add products, or replace products with the same ids; return the new version's manifest.

    Args:
        index_dir: Directory of the index.
        products: Table with unique ids (product_id), texts (`types.columns.TEXT_COLUMN`) if the index has
            texts, and payload columns. A column that only one side has is null on the other side.
        embeddings: Chunks of (n, dim) float32, unit L2 norm, in the order of `products`.
        fingerprint: Fingerprint of the encoder that made the embeddings.
        marks: Function that returns the marks of the texts, (n,), called after the embeddings are read; None
            if texts are not marked.
        threads: Threads that add nodes; None is one per core, 1 gives the same file every time.
        keep_versions: Number of versions to keep from now on, including the new one; None keeps the number.

    Raises:
        DataError: If ids, columns or the number of embeddings do not match.
        FingerprintMismatchError: If another encoder made the index.
        ModelError: If an embedding has the wrong length, is not finite, or is not of unit norm.
        IndexLockedError: If another process is writing the index.
        IndexStoreError: If the index is damaged, or a file cannot be written.
    """
    with index_writer(index_dir, command="upsert", keep_versions=keep_versions) as writer:
        index = open_index(index_dir, fingerprint=fingerprint)
        _check_products(products, index)
        manifest = index.manifest
        path = writer.staging / UPSERTED_FILE
        write_embeddings(
            path, embeddings, products=products, dim=manifest.dim, store_dtype=manifest.store_dtype
        )
        shape = (products.num_rows, manifest.dim)
        upserted = read_array(path, shape=shape, dtype=manifest.store_dtype)
        place = pc.index_in(products.column(ID_COLUMN), value_set=index.products.column(ID_COLUMN))
        rows = place.combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        # Source of each row of the new version: a row of the old index if below `count`, else a new product.
        source = np.concatenate([np.arange(manifest.count), manifest.count + np.flatnonzero(rows < 0)])
        source[rows[rows >= 0]] = manifest.count + np.flatnonzero(rows >= 0)
        changed = stage_change(
            writer,
            index,
            source,
            products,
            upserted,
            command="upsert",
            threads=threads,
            marks=None if marks is None else marks(),
        )
        path.unlink()
        return writer.commit(changed)


def delete_products(
    index_dir: StrPath,
    product_ids: Iterable[str],
    *,
    ignore_unknown: bool = False,
    keep_versions: int | None = None,
) -> Manifest:
    """Remove products; return the new version's manifest, or the current manifest if nothing changes.

    Args:
        index_dir: Directory of the index.
        product_ids: Ids of the products; repeats count once.
        ignore_unknown: Skip ids that are not in the index, instead of raising.
        keep_versions: Number of versions to keep from now on, including the new one; None keeps the number.

    Raises:
        DataError: If an id is not in the index, or no product would be left.
        IndexLockedError: If another process is writing the index.
        IndexStoreError: If the index is damaged, or a file cannot be written.
    """
    product_ids = as_sequence(product_ids, "product_ids", DataError)
    with index_writer(index_dir, command="delete", keep_versions=keep_versions) as writer:
        index = open_index(index_dir)
        wanted = pa.array(list(dict.fromkeys(product_ids)), pa.string())
        place = pc.index_in(wanted, value_set=index.products.column(ID_COLUMN).combine_chunks())
        unknown = wanted.filter(pc.is_null(place)).to_pylist()
        if unknown and not ignore_unknown:
            more = f" and {len(unknown) - 10:,} more" if len(unknown) > 10 else ""
            raise DataError(
                f"{index_dir}: has no product {', '.join(map(repr, unknown[:10]))}{more}; leave them out, or "
                "give --ignore_unknown (ignore_unknown=True)"
            )
        if not len(place.drop_null()):
            return index.manifest
        source = np.delete(np.arange(index.manifest.count), place.drop_null().to_numpy())
        if not len(source):
            raise DataError(f"{index_dir}: an index needs at least one product, and none would be left")
        nothing: FloatArray = np.empty((0, index.dim), index.embeddings.dtype)
        empty = index.products.slice(0, 0)
        changed = stage_change(writer, index, source, empty, nothing, command="delete", threads=None)
        return writer.commit(changed)


def _check_products(products: pa.Table, index: SearchIndex) -> None:
    if not products.num_rows:
        raise DataError("upsert: needs at least one product, found none")
    ids = products.column(ID_COLUMN) if ID_COLUMN in products.column_names else None
    if ids is None or not _is_text(ids) or pc.any(pc.equal(pc.utf8_trim_whitespace(ids), "")).as_py():
        raise DataError(f"upsert: needs a text column {ID_COLUMN!r} without nulls and blanks")
    if pc.count_distinct(ids).as_py() != len(ids):
        twice = pc.value_counts(ids).filter(pc.greater(pc.value_counts(ids).field("counts"), 1))
        raise DataError(
            f"product_id {twice.field('values')[0].as_py()!r}: ids must be unique, found it more than once"
        )
    has_text, needs_text = TEXT_COLUMN in products.column_names, TEXT_COLUMN in index.products.column_names
    if has_text != needs_text:
        found = "none were given" if needs_text else "the index was built without them"
        raise DataError(f"upsert: products' texts must be given just when the index has them; {found}")
    if has_text and not _is_text(products.column(TEXT_COLUMN)):
        raise DataError(f"upsert: {TEXT_COLUMN!r} must be a text column without nulls")
    joined(index.products.slice(0, 0), products.slice(0, 0))


def _is_text(column: pa.ChunkedArray) -> bool:
    return column.type == pa.string() and not column.null_count
