"""Read changes to some columns of products that an index has, for `upsert --partial`."""

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
    """Write the changes in rows to a file like a catalogue's, and return it; its texts are blank.

    The file has every column that a row gives, with the types of `known`, and `GIVEN_COLUMN`.

    Args:
        rows: Rows with the id column and some columns of the index; read once.
        path: Path of the file to write, as for `write_catalog`.
        id_column: Column of unique ids.
        known: Columns of the index; their types are kept.
        ids: Product ids of the index.
        on_bad_row: What to do with a row without an id, with a repeated id, with an id that the index lacks,
            or with a value that does not fit the type of its column.

    Raises:
        DataError: The index lacks a column, no good row is left, there are bad rows and `on_bad_row` is
            `error`, or the file cannot be written.
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
