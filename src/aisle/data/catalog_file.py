"""The products to search: read, checked and written to disk, so that memory stays flat.

While a catalogue is read, memory holds one window of rows and a 128-bit digest of every id (`DigestSet`): 16
bytes a product, and 9 more for a moment while it grows. 100 million products take 1.6 GB, and 2.5 at most.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.data.catalog_chunks import CatalogChunks
from aisle.data.digests import DigestSet, text_digests
from aisle.data.pair_rows import PairColumns, find_product_columns
from aisle.data.payload import KnownColumns
from aisle.data.product_rows import ListedProductParser, Product, ProductParser, Window, windows
from aisle.data.rows import BadRowLog, BadRows, OnBadRow, Problem, Row, missing_column, place
from aisle.data.templates import parse_template
from aisle.data.type_change import TypeChange
from aisle.types.columns import ID_COLUMN

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "CatalogFile",
    "new_products",
    "write_catalog",
    "write_distinct_products",
]

# A report shows ten bad rows; the place of a first row is looked up for no more.
_PLACED = 10


@dataclass(frozen=True)
class CatalogFile:
    """A catalogue that was read, checked and written to disk, in reading order; memory-mapped.

    Attributes:
        path: an Arrow IPC file. Its columns are `ID_COLUMN` (string, unique), `TEXT_COLUMN` (string, what is
            embedded, none blank), then the payload with the types that were found.
        count: products.
        bad_rows: the report of the rows that are not among them.
        conflicting_texts: rows of pairs whose product had another text before; the first is taken.
        type_changes: columns whose values are of another kind than in the version before.
        notes: about columns that look like numbers and hold texts.
    """

    path: Path
    count: int
    bad_rows: BadRows
    conflicting_texts: int = 0
    type_changes: tuple[TypeChange, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the products in order, memory-mapped: at most 20,000 a batch, fewer where texts are long."""
        import pyarrow as pa

        with pa.memory_map(str(self.path)) as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


def write_catalog(
    rows: Iterable[Row],
    path: Path,
    *,
    id_column: str = ID_COLUMN,
    text_template: str = "{title}",
    text_columns: Collection[str] = (),
    on_bad_row: OnBadRow,
    known: KnownColumns | None = None,
) -> CatalogFile:
    """Return the products that rows hold, written to a file.

    Ids are texts or integers, kept as texts. The payload is every column but that of the ids; blank texts in
    it are null. In csv and tsv a payload column becomes one of numbers, of true or false or of dates when
    every value that is not blank is one, but never one that the template uses or that is named like an id.

    Args:
        rows: of one or more sources, each with the id column and the template's fields; read once.
        path: the file to write. It is written beside, with its folder where there is none, and put in its
            place when it is whole.
        id_column: the column of unique ids.
        text_template: the text to embed, as in `"{title} {brand}"`; see `templates`.
        text_columns: payload that stays text, whatever it looks like; those of the template do.
        on_bad_row: what becomes of rows without an id or a text, or with an id seen before; under `skip` also
            of the few rows whose values turn a column into another kind than `known` has.
        known: columns of the products before. Where they are binding, the rows must have the same columns,
            and a value that is not of its column's type makes its row a bad one.

    Raises:
        ConfigError: the template is malformed.
        DataError: a column is missing, unknown or named like `ID_COLUMN` or `TEXT_COLUMN`, no good row is
            left, there are bad rows under `error`, or the file cannot be written.
    """
    template = parse_template(text_template)
    parser = ProductParser(id_column, template, known=known.types if known and known.binding else None)
    log, seen = BadRowLog(), DigestSet()
    texts = [*template.fields, *text_columns]
    with CatalogChunks(
        path, texts=texts, left_out=id_column, known=known, leave_out=on_bad_row == "skip"
    ) as chunks:
        for window in windows(rows, parser.parse):
            products = new_products(window, seen, log, chunks, id_column)
            chunks.add(products, untyped=window.untyped, declared=window.declared)
        absent = sorted(set(text_columns) - parser.columns)
        if absent:
            raise missing_column("--text_columns", absent[0], sorted(parser.columns - {id_column}))
        chunks.write(log)
        report = log.settle(on_bad_row, good=chunks.count)
        chunks.finish()
    return CatalogFile(
        path,
        chunks.count,
        report,
        type_changes=tuple(chunks.types.changes),
        notes=tuple(chunks.types.notes),
    )


def new_products(
    window: Window, seen: DigestSet, log: BadRowLog, chunks: CatalogChunks, id_column: str
) -> list[tuple[Row, Product]]:
    """Return a window's products with ids that were not seen before, and log its other rows in order."""
    ids = [product.product_id for _, product in window.rows if isinstance(product, Product)]
    is_new, _ = seen.insert(text_digests(ids))
    verdicts = iter(is_new.tolist())
    products: list[tuple[Row, Product]] = []
    for row, product in window.rows:
        if isinstance(product, Problem):
            log.add(row, product)
        elif next(verdicts):
            products.append((row, product))
        else:
            note = ""
            if log.total < _PLACED:
                note = f", first in {_first_place(product.product_id, products, chunks)}"
            log.add(row, Problem(f"{id_column} is a duplicate", product.product_id, note))
    return products


def _first_place(product_id: str, products: list[tuple[Row, Product]], chunks: CatalogChunks) -> str:
    """Return where the first product with an id was read: among the last ones, or in a chunk on disk."""
    for row, product in products:
        if product.product_id == product_id:
            return place(row.source, row.number, row.line)
    return chunks.place_of(product_id)


def write_distinct_products(
    rows: Iterable[Row], path: Path, *, columns: PairColumns, on_bad_row: OnBadRow
) -> CatalogFile:
    """Return the distinct products of pairs, written to a file in order of first appearance.

    Products are the same when their ids are, and the first text is kept; without ids, when their texts are,
    and the ids are then p0, p1 and so on. The payload is the product column. With ids, memory holds 8 bytes a
    product more than for a catalogue: a digest of its text.

    Args:
        rows: of pairs; queries and labels are not looked at; read once.
        path: the file to write, as for `write_catalog`.
        columns: the product column and, where there is one, the product id column.
        on_bad_row: what becomes of rows without a product.

    Raises:
        DataError: a column is missing or named like `ID_COLUMN` or `TEXT_COLUMN`, no good row is left, there
            are bad rows under `error`, or the file cannot be written.
    """
    log, seen = BadRowLog(), DigestSet()
    head, rest = log.first_good(rows, on_bad_row)
    text_column, id_column = find_product_columns(head, columns)
    parser = ListedProductParser(text_column, id_column)
    good, conflicts = 0, 0
    with CatalogChunks(path, texts=[text_column], left_out=None) as chunks:
        for window in windows(rest, parser.parse):
            products = []
            for row, product in window.rows:
                if isinstance(product, Problem):
                    log.add(row, product)
                else:
                    products.append((row, product))
            good += len(products)
            new, other_texts = _distinct(products, seen, numbered=id_column is None)
            conflicts += other_texts
            chunks.add(new, untyped=window.untyped)
        chunks.write(log)
        report = log.settle(on_bad_row, good=good)
        chunks.finish()
    return CatalogFile(path, chunks.count, report, conflicts)


def _distinct(
    products: list[tuple[Row, Product]], seen: DigestSet, *, numbered: bool
) -> tuple[list[tuple[Row, Product]], int]:
    """Return the products not seen before, and how many of the others have another text than theirs."""
    before = len(seen)
    ids = text_digests(product.product_id for _, product in products)
    texts = ids[:, 0] if numbered else text_digests(product.text for _, product in products)[:, 0]
    is_new, (kept,) = seen.insert(ids, texts)
    new = [products[index] for index in is_new.nonzero()[0]]
    if numbered:
        new = [
            (row, product._replace(product_id=f"p{number}"))
            for number, (row, product) in enumerate(new, start=before)
        ]
    return new, int((kept != texts).sum())
