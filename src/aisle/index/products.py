"""Products of an index: ids, texts and payload in a memory-mapped Arrow file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute

from aisle.errors import DataError, IndexIntegrityError, IndexStoreError
from aisle.index.scoring import Rows
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN
from aisle.types.sequences import as_sequence

__all__ = [
    "TAKEN_ROWS",
    "make_products",
    "rank_ids",
    "read_products",
    "take_rows",
    "text_of",
    "write_products",
]

TAKEN_ROWS = 65_536


def make_products(
    product_ids: Iterable[str], payload: pa.Table, texts: Iterable[str] | None = None
) -> pa.Table:
    """Return the table of product ids, texts and payload that `products.arrow` holds.

    Raises:
        DataError: If there are no products, an id is not text, is blank or occurs twice, payload or texts
            have another number of rows, or the payload has a column twice or with a reserved name.
    """
    product_ids = as_sequence(product_ids, "product_ids", DataError)
    texts = None if texts is None else as_sequence(texts, "texts", DataError)
    _check_ids(product_ids)
    names = payload.column_names
    if {ID_COLUMN, TEXT_COLUMN} & set(names) or len(set(names)) != len(names):
        raise DataError(
            f"payload: columns must differ from each other, from {ID_COLUMN!r} and from {TEXT_COLUMN!r}, "
            f"found {names}; rename them"
        )
    if texts is not None and len(texts) != len(product_ids):
        raise DataError(f"texts: one per product is needed, found {len(texts)} for {len(product_ids)}")
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
    text = {} if texts is None else {TEXT_COLUMN: pa.array(list(texts), pa.string())}
    return pa.table({ID_COLUMN: ids, **text, **{name: payload.column(name) for name in names}})


def rank_ids(products: pa.Table) -> Rows:
    """Return the rank of each product's id among the ids sorted by code point, (count,)."""
    order = pa.compute.sort_indices(products.column(ID_COLUMN)).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def take_rows(table: pa.Table, rows: Rows) -> pa.Table:
    """Return rows of a memory-mapped table without reading other rows.

    Some versions of Arrow copy a column with many chunks as a whole to take rows from it. Therefore rows are
    taken from each chunk separately.
    """
    batches = table.to_batches()
    if len(batches) <= 1:
        return table.take(pa.array(rows))
    ends = np.cumsum([len(batch) for batch in batches])
    batch_of = np.searchsorted(ends, rows, side="right")
    order = np.argsort(batch_of, kind="stable")
    taken = []
    for number in np.unique(batch_of):
        local = rows[batch_of == number] - (ends[number] - len(batches[number]))
        taken.append(pa.Table.from_batches([batches[number]]).take(pa.array(local)))
    if not taken:
        return table.slice(0, 0)
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows))
    return pa.concat_tables(taken).combine_chunks().take(pa.array(place))


def text_of(products: pa.Table) -> Iterator[str]:
    """Yield the texts that were embedded, in order.

    Raises:
        IndexStoreError: The index was built without texts.
    """
    if TEXT_COLUMN not in products.column_names:
        raise IndexStoreError(
            "the index was built without its products' texts; build it again with them (texts=...)"
        )
    for batch in products.select([TEXT_COLUMN]).to_batches(max_chunksize=TAKEN_ROWS):
        yield from batch.column(0).to_pylist()


def write_products(path: Path, products: pa.Table) -> None:
    """Write the products as an Arrow IPC file.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("wb") as sink, pa.ipc.new_file(sink, products.schema) as writer:
        writer.write_table(products.unify_dictionaries(), max_chunksize=TAKEN_ROWS)


def read_products(path: Path, *, count: int | None = None) -> pa.Table:
    """Return the memory-mapped products.

    Args:
        path: Path of the file.
        count: Required number of rows; None accepts any number.

    Raises:
        IndexIntegrityError: If the file is not an Arrow file of `count` rows with a text column product_id.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid as error:
        raise IndexIntegrityError(
            f"{path}: must be an Arrow IPC file: {error}; build the index again"
        ) from None
    has_ids = ID_COLUMN in table.column_names and table.schema.field(ID_COLUMN).type == pa.string()
    if not has_ids or (count is not None and table.num_rows != count):
        raise IndexIntegrityError(
            f"{path}: must have {count or 'some'} rows and a string column {ID_COLUMN!r}, found "
            f"{table.num_rows} rows and columns {table.column_names}; build the index again"
        )
    return table


def _check_ids(product_ids: Sequence[str]) -> None:
    """Check that there are ids, and that all are distinct texts that are not blank."""
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
