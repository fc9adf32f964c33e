"""The catalogue that negatives are mined from: ids, texts and payload."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from aisle.index.products import TAKEN_ROWS, rank_ids, take_rows, text_of
from aisle.index.scoring import Rows
from aisle.mining.text_keys import text_key
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

__all__ = ["MinedCatalog", "Product", "ProductRows", "RelevantRows"]


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
    """Products with their texts, memory-mapped.

    Attributes:
        products: Columns `ID_COLUMN` and `TEXT_COLUMN`, and the payload.
        tie_ranks: (count,) rank of each product's id among the sorted ids, for equal scores.
    """

    products: pa.Table
    tie_ranks: Rows

    @classmethod
    def of(cls, products: pa.Table) -> MinedCatalog:
        """Return the catalogue of these products."""
        return cls(products, rank_ids(products))

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
        return {product.product_id: product.text for product in self.at(self._rows_of(product_ids))}

    def rows_of(self, product_ids: Iterable[str], keys: Collection[str]) -> ProductRows:
        """Return the rows of products that are named by id or by the key of their text.

        Args:
            product_ids: Ids, of which the catalogue may lack some.
            keys: Keys of texts, see `text_key`.
        """
        rows = self._rows_of(product_ids)
        ids = take_rows(self.products.select([ID_COLUMN]), rows).column(0).to_pylist()
        by_key: dict[str, list[int]] = {}
        if keys:
            for row, text in enumerate(text_of(self.products)):
                key = text_key(text)
                if key in keys:
                    by_key.setdefault(key, []).append(row)
        return ProductRows(dict(zip(ids, rows.tolist(), strict=True)), by_key)

    def _rows_of(self, product_ids: Iterable[str]) -> Rows:
        wanted = pa.array(sorted(set(product_ids)), pa.string())
        ids = self.products.column(ID_COLUMN)
        return np.flatnonzero(pa.compute.is_in(ids, value_set=wanted).to_numpy())


@dataclass(frozen=True, eq=False)
class RelevantRows:
    """Rows in the catalogue of a query's relevant products.

    Attributes:
        rows: (products,) rows, ascending.
        levels: (products,) float64, highest relevance of each.
    """

    rows: Rows
    levels: npt.NDArray[np.float64]

    @classmethod
    def of(cls, levels: Mapping[int, float]) -> RelevantRows:
        """Return the rows of a mapping from row to relevance."""
        rows = sorted(levels)
        return cls(np.array(rows, np.int64), np.array([levels[row] for row in rows], np.float64))


@dataclass(frozen=True)
class ProductRows:
    """Rows in the catalogue of products that the training data name.

    Attributes:
        by_id: Product id to its row.
        by_key: Key of a text to the rows with such a text.
    """

    by_id: Mapping[str, int]
    by_key: Mapping[str, Sequence[int]]

    def find(self, product_id: str | None, key: str) -> tuple[int, ...]:
        """Return the row with the id, or else the rows with the key of the text."""
        if product_id is not None and product_id in self.by_id:
            return (self.by_id[product_id],)
        return tuple(self.by_key.get(key, ()))

    def find_all(self, product_ids: Iterable[str], keys: Iterable[str]) -> tuple[int, ...]:
        """Return the rows with one of the ids or keys, in order."""
        found = {self.by_id[product_id] for product_id in product_ids if product_id in self.by_id}
        return tuple(sorted(found.union(*(self.by_key.get(key, ()) for key in keys))))

    def relevant(
        self, id_levels: Mapping[str, float], key_levels: Mapping[str, float], *, lowest: float
    ) -> RelevantRows:
        """Return the rows with one of the ids or keys, and the highest relevance of each.

        Args:
            id_levels: Product id to relevance.
            key_levels: Key of a text to relevance.
            lowest: Lowest relevance; products with a lower one are left out.
        """
        found: dict[int, float] = {}
        by_id = ((self.by_id[name], level) for name, level in id_levels.items() if name in self.by_id)
        by_key = ((row, level) for key, level in key_levels.items() for row in self.by_key.get(key, ()))
        for row, level in chain(by_id, by_key):
            if level >= lowest:
                found[row] = max(level, found.get(row, level))
        return RelevantRows.of(found)
