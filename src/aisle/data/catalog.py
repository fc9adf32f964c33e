"""The products to search: ids, the texts to embed, and the payload to give back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aisle.data.files import is_untyped
from aisle.data.pair_rows import PairColumns, find_product_columns
from aisle.data.payload import PayloadBuilder
from aisle.data.rows import (
    BadRowLog,
    BadRows,
    OnBadRow,
    Problem,
    Row,
    id_text,
    is_unicode,
    place,
    require_columns,
    text_problem,
)
from aisle.data.templates import TextTemplate, parse_template

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Catalog", "CatalogRead", "distinct_products", "read_catalog"]


@dataclass(frozen=True)
class Catalog:
    """Products in reading order.

    Attributes:
        product_ids: (products,) unique, none blank.
        texts: (products,) what is embedded, none blank.
        payload: (products,) every column but the id, with the types that were found.
    """

    product_ids: list[str]
    texts: list[str]
    payload: pa.Table

    def __len__(self) -> int:
        return len(self.product_ids)


@dataclass(frozen=True)
class CatalogRead:
    """A catalogue, the report of the rows that are not in it, and how many ids had a second, other text."""

    catalog: Catalog
    bad_rows: BadRows
    conflicting_texts: int = 0


def read_catalog(
    rows: Iterable[Row],
    *,
    id_column: str = "product_id",
    text_template: str = "{title}",
    on_bad_row: OnBadRow,
) -> CatalogRead:
    """Return the products that rows hold.

    Ids are texts or integers, kept as texts. In csv and tsv a payload column becomes one of numbers when
    every value that is not blank is a number, but never one that the template uses or that is named like an
    id.

    Args:
        rows: of one or more sources, each with the id column and the template's fields.
        id_column: the column of unique ids.
        text_template: the text to embed, as in `"{title} {brand}"`; see `templates`.
        on_bad_row: what becomes of rows without an id or a text, or with an id seen before.

    Raises:
        ConfigError: the template is malformed.
        DataError: a column is missing, no good row is left, or there are bad rows under `error`.
    """
    template = parse_template(text_template)
    payload = PayloadBuilder(texts=template.fields)
    log = BadRowLog()
    first: dict[str, Row] = {}
    texts: list[str] = []
    source, untyped = None, False
    for row in rows:
        if row.problem is None and row.source != source:
            require_columns(row, [id_column, *template.fields])
            source, untyped = row.source, is_untyped(row.source)
        product = row.problem or _product(row, id_column, template)
        if isinstance(product, Problem):
            log.add(row, product)
            continue
        product_id, text = product
        if product_id in first:
            there = first[product_id]
            note = f", first in {place(there.source, there.number, there.line)}"
            log.add(row, Problem(f"{id_column} is a duplicate", product_id, note))
            continue
        # Without the values: the payload has them, and a million dictionaries would stay in memory.
        first[product_id] = row._replace(values={})
        texts.append(text)
        payload.add({name: row.values[name] for name in row.values if name != id_column}, untyped=untyped)
    report = log.settle(on_bad_row, good=len(texts))
    return CatalogRead(Catalog(list(first), texts, payload.table()), report)


def _product(row: Row, id_column: str, template: TextTemplate) -> tuple[str, str] | Problem:
    """Return a row's id and text, or why it is no product."""
    product_id = id_text(row.values.get(id_column))
    if isinstance(product_id, Problem):
        return Problem(f"{id_column} {product_id.reason}", product_id.found)
    text = template.render(row.values)
    if isinstance(text, Problem):
        return text
    for column, value in row.values.items():
        if isinstance(value, str) and not is_unicode(value):
            return Problem(f"{column} is not valid Unicode", value)
    return product_id, text


def distinct_products(rows: Iterable[Row], *, columns: PairColumns, on_bad_row: OnBadRow) -> CatalogRead:
    """Return the distinct products of pairs as a catalogue, in order of first appearance.

    Products are the same when their ids are, and the first text is kept; without ids, when their texts are,
    and the ids are then p0, p1 and so on. The payload is the product column.

    Args:
        rows: of pairs; queries and labels are not looked at.
        columns: the product column and, where there is one, the product id column.
        on_bad_row: what becomes of rows without a product.

    Raises:
        DataError: a column is missing, no good row is left, or there are bad rows under `error`.
    """
    import pyarrow as pa

    log = BadRowLog()
    head, rest = log.first_good(rows, on_bad_row)
    text_column, id_column = find_product_columns(head, columns)
    products: dict[str, str] = {}
    source, good, conflicts = None, 0, 0
    for row in rest:
        if row.problem is None and row.source != source:
            require_columns(row, [text_column, id_column])
            source = row.source
        product = row.problem or _listed_product(row, text_column, id_column)
        if isinstance(product, Problem):
            log.add(row, product)
            continue
        good += 1
        key, text = product
        conflicts += products.setdefault(key, text) != text
    report = log.settle(on_bad_row, good=good)
    ids = [f"p{number}" for number in range(len(products))] if id_column is None else list(products)
    texts = list(products.values())
    return CatalogRead(Catalog(ids, texts, pa.table({text_column: texts})), report, conflicts)


def _listed_product(row: Row, text_column: str, id_column: str | None) -> tuple[str, str] | Problem:
    """Return the key and the text of a pair's product, or why it has none."""
    text = row.values.get(text_column)
    reason = text_problem(text)
    if reason is not None:
        return Problem(f"{text_column} {reason}", text)
    if id_column is None:
        return str(text), str(text)
    product_id = id_text(row.values.get(id_column))
    if isinstance(product_id, Problem):
        return Problem(f"{id_column} {product_id.reason}", product_id.found)
    return product_id, str(text)
