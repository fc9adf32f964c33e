"""Some columns of known products: read, checked and written to a file like a catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.data.catalog_chunks import CatalogChunks
from aisle.data.catalog_file import CatalogFile, new_products
from aisle.data.digests import DigestSet
from aisle.data.payload import KnownColumns
from aisle.data.product_rows import GIVEN_COLUMN, PartialProductParser, Product, windows
from aisle.data.rows import BadRowLog, OnBadRow, Problem, Row

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["GIVEN_COLUMN", "write_partial_changes"]


def write_partial_changes(
    rows: Iterable[Row],
    path: Path,
    *,
    id_column: str,
    known: KnownColumns,
    ids: pa.ChunkedArray,
    on_bad_row: OnBadRow,
) -> CatalogFile:
    """Return the changes that rows hold, written to a file; its texts are blank.

    The file has the columns that some row gives, with the types of `known`, and `GIVEN_COLUMN`.

    Args:
        rows: with the id column and some columns of the index; read once.
        path: the file to write, as for `write_catalog`.
        id_column: the column of unique ids.
        known: columns of the index, binding.
        ids: of the index's products.
        on_bad_row: what becomes of rows without an id, with one seen before or not in the index, or with a
            value that is not of its column's type.

    Raises:
        DataError: a column is not one of the index, no good row is left, there are bad rows under `error`, or
            the file cannot be written.
    """
    parser = PartialProductParser(id_column, known.types)
    log, seen = BadRowLog(), DigestSet()
    with CatalogChunks(path, texts=[GIVEN_COLUMN], left_out=id_column, known=known) as chunks:
        for window in windows(rows, parser.parse):
            products = new_products(window, seen, log, chunks, id_column)
            chunks.add(
                _known_products(products, ids, log, id_column),
                untyped=window.untyped,
                declared=window.declared,
            )
        chunks.write(log)
        report = log.settle(on_bad_row, good=chunks.count)
        chunks.finish()
    return CatalogFile(path, chunks.count, report)


def _known_products(
    products: list[tuple[Row, Product]], ids: pa.ChunkedArray, log: BadRowLog, id_column: str
) -> list[tuple[Row, Product]]:
    """Return the products that the index has, and log the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    given = pa.array([product.product_id for _, product in products], pa.string())
    is_known = pc.is_in(given, value_set=ids).to_pylist()
    for (row, product), there in zip(products, is_known, strict=True):
        if not there:
            reason = f"{id_column} is not in the index; add it with all columns, without --partial"
            log.add(row, Problem(reason, product.product_id))
    return [entry for entry, there in zip(products, is_known, strict=True) if there]
