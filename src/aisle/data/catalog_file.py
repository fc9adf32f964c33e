"""Read and check a catalogue and write it to disk, with flat memory.

While a catalogue is read, memory holds a window of rows and a 128-bit digest of every id (`DigestSet`): 16
bytes a product, and briefly 9 more while the set grows. 100 million products take 1.6 GB, at most 2.5 GB.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.data.catalog_chunks import CatalogChunks
from aisle.data.digests import DigestSet, text_digests
from aisle.data.pair_columns import PairColumns, find_product_columns
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

# A report shows ten bad rows, so the place of a duplicate's first row is looked up for ten rows only.
_PLACED = 10


@dataclass(frozen=True)
class CatalogFile:
    """A checked catalogue on disk, in reading order; memory-mapped.

    Attributes:
        path: Path of an Arrow IPC file. Its columns are `ID_COLUMN` (string, unique), `TEXT_COLUMN` (string,
            never blank), then the payload with its inferred types.
        count: Number of products.
        bad_rows: Report of the rows that were left out.
        conflicting_texts: Number of rows of pairs with another text for a product than an earlier row; the
            first text is kept.
        type_changes: Columns with another kind of values than in the version before.
        notes: Remarks on columns that look like numbers but hold texts.
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
        """Yield the products in order, memory-mapped, in batches of up to 20,000; fewer if texts are long."""
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
    """Write the products in rows to a file and return it.

    Ids are texts or integers, stored as texts. The payload is every other column; its blank texts become
    null. In csv and tsv, a payload column becomes numbers, true or false, or dates if every value that is
    not blank is one; columns of the template and columns with a name like an id stay texts.

    Args:
        rows: Rows of one or more sources, each with the id column and the fields of the template; read once.
        path: Path of the file to write. The file appears when it is complete; its folder is made if missing.
        id_column: Column of unique ids.
        text_template: Text to embed, for example `"{title} {brand}"`; see `templates`.
        text_columns: Payload columns that stay text, in addition to those of the template.
        on_bad_row: What to do with rows without an id or a text, or with a repeated id; with `skip`, also
            with the few rows that would change the kind of values of a column in `known`.
        known: Columns of the products before. If they are binding, rows must have the same columns, and a row
            with a value that does not fit the type of its column is bad.

    Raises:
        ConfigError: The template is malformed.
        DataError: A column is missing, unknown or named like `ID_COLUMN` or `TEXT_COLUMN`, no good row is
            left, there are bad rows and `on_bad_row` is `error`, or the file cannot be written.
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
    """Return the products of a window with new ids, and log its other rows in order."""
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
    """Return the place of the first product with an id: in the current window, or in a chunk on disk."""
    for row, product in products:
        if product.product_id == product_id:
            return place(row.source, row.number, row.line)
    return chunks.place_of(product_id)


def write_distinct_products(
    rows: Iterable[Row], path: Path, *, columns: PairColumns, on_bad_row: OnBadRow
) -> CatalogFile:
    """Write the distinct products of pairs to a file, in order of first appearance, and return it.

    Products with equal ids are the same, and the first text is kept. Without ids, products with equal texts
    are the same, and their ids are p0, p1 and so on. The payload is the product column. With ids, memory
    holds 8 bytes a product more than for a catalogue: a digest of the text.

    Args:
        rows: Rows of pairs, read once; queries and labels are ignored.
        path: Path of the file to write, as for `write_catalog`.
        columns: Product column and, if there is one, product id column.
        on_bad_row: What to do with rows without a product.

    Raises:
        DataError: A column is missing or named like `ID_COLUMN` or `TEXT_COLUMN`, no good row is left, there
            are bad rows and `on_bad_row` is `error`, or the file cannot be written.
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
    """Return the new products, and how many of the repeated ones have a different text."""
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
