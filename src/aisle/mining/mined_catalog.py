"""The catalogue that negatives are mined from: ids, texts and BM25."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from aisle.index.lexical import Bm25Index
from aisle.index.products import TAKEN_ROWS, rank_ids, take_rows, text_of
from aisle.index.scoring import Rows
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

__all__ = ["MinedCatalog", "Product"]


@dataclass(frozen=True)
class Product:
    """Product of a catalogue.

    Attributes:
        product_id: Id of the product.
        text: Text of the product, as an index embeds it.
    """

    product_id: str
    text: str


@dataclass(frozen=True, eq=False)
class MinedCatalog:
    """Products with their texts, memory-mapped, and their BM25 index.

    Attributes:
        products: Columns `ID_COLUMN` and `TEXT_COLUMN`, and the payload.
        lexical: BM25 over the texts.
        tie_ranks: (count,) rank of each product's id among the sorted ids, for equal scores.
    """

    products: pa.Table
    lexical: Bm25Index
    tie_ranks: Rows

    @classmethod
    def of(cls, products: pa.Table, lexical: Bm25Index) -> MinedCatalog:
        """Return the catalogue of these products."""
        return cls(products, lexical, rank_ids(products))

    def __len__(self) -> int:
        return int(self.products.num_rows)

    def ids(self) -> Iterator[list[str]]:
        """Yield the ids in order, many at a time."""
        for batch in self.products.select([ID_COLUMN]).to_batches(max_chunksize=TAKEN_ROWS):
            yield batch.column(0).to_pylist()

    def payload(self, rows: Rows, columns: Collection[str]) -> list[dict[str, Any]]:
        """Return the values of the products in these rows, for those of the columns that there are."""
        there = [name for name in columns if name in self.products.column_names]
        if not there:
            return [{} for _ in rows]
        found: list[dict[str, Any]] = take_rows(self.products.select(there), rows).to_pylist()
        return found

    def at(self, rows: Rows) -> list[Product]:
        """Return the products in these rows, in that order."""
        taken = take_rows(self.products.select([ID_COLUMN, TEXT_COLUMN]), rows)
        ids, texts = (taken.column(name).to_pylist() for name in (ID_COLUMN, TEXT_COLUMN))
        return [Product(product_id, text) for product_id, text in zip(ids, texts, strict=True)]

    def texts_of(self, product_ids: Iterable[str]) -> dict[str, str]:
        """Return the texts of those of the products that the catalogue has, by id."""
        wanted = pa.array(sorted(set(product_ids)), pa.string())
        ids = self.products.column(ID_COLUMN)
        rows = np.flatnonzero(pa.compute.is_in(ids, value_set=wanted).to_numpy())
        return {product.product_id: product.text for product in self.at(rows)}

    def keys_among(self, keys: Collection[str], *, key_of: Callable[[str], str]) -> set[str]:
        """Return those of the keys that a text of the catalogue has."""
        return {key for key in map(key_of, text_of(self.products)) if key in keys}
