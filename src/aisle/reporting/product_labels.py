"""Titles of the products in a report, and the product columns to group queries by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from aisle.errors import ConfigError
from aisle.index import SearchIndex
from aisle.index.products import take_rows
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN, TITLE_COLUMNS

__all__ = ["ProductLabels", "product_labels"]

SLICE_COLUMNS = ("department", "category", "brand")


@dataclass(frozen=True)
class ProductLabels:
    """Titles and groups of the products of an index.

    Args:
        index: Index of the products.
        title: Column with the titles; None shows product ids.
        slices: Columns to group queries by.
    """

    index: SearchIndex
    title: str | None
    slices: tuple[str, ...]

    def rows_of(self, product_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the row of each id, (n,); -1 for an id that is not in the index."""
        known = self.index.products.column(ID_COLUMN).combine_chunks()
        found = pa.compute.index_in(pa.array(list(product_ids), pa.string()), value_set=known)
        rows: npt.NDArray[np.int64] = found.fill_null(-1).to_numpy().astype(np.int64)
        return rows

    def values(self, column: str, product_ids: Sequence[str]) -> dict[str, str]:
        """Return {product id: value of a column}, without products that have no value."""
        rows = self.rows_of(product_ids)
        kept = [product for product, row in zip(product_ids, rows, strict=True) if row >= 0]
        values = take_rows(self.index.products.select([column]), rows[rows >= 0]).column(0).to_pylist()
        texts = [None if value is None else " ".join(str(value).split()) for value in values]
        return {product: text for product, text in zip(kept, texts, strict=True) if text}

    def titles(self, product_ids: Iterable[str]) -> dict[str, str]:
        """Return {product id: title}; the id replaces a missing title."""
        distinct = list(dict.fromkeys(product_ids))
        named = {} if self.title is None else self.values(self.title, distinct)
        return {product: named.get(product, product) for product in distinct}


def product_labels(
    index: SearchIndex, *, title_column: str | None, slice_columns: tuple[str, ...] | None
) -> ProductLabels:
    """Return the titles and groups of an index's products.

    Args:
        index: Index of the products.
        title_column: Column with the titles; None finds it by name, or takes the texts.
        slice_columns: Columns to group queries by; None finds them by name.

    Raises:
        ConfigError: If the index does not have a given column.
    """
    columns = [name for name in index.products.column_names if name not in (ID_COLUMN, TEXT_COLUMN)]
    named = {"title_column": (title_column,) if title_column else (), "slice_column": slice_columns or ()}
    for flag, given in named.items():
        for column in given:
            if column not in columns:
                raise ConfigError(
                    f"--{flag} {column}: the index has no such column; it has {', '.join(columns) or 'none'}"
                )
    usual = next((name for name in TITLE_COLUMNS if name in columns), None)
    texts = TEXT_COLUMN if TEXT_COLUMN in index.products.column_names else None
    found = tuple(name for name in SLICE_COLUMNS if name in columns)
    return ProductLabels(
        index, title_column or usual or texts, found if slice_columns is None else slice_columns
    )
