"""Positives of a batch, and the texts to exclude from their negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Exclusions:
    """For each anchor row, the columns to exclude from its negatives.

    Args:
        ends: (rows + 1,) int64, start and end of each row's entries. It stays on the host, so that `block`
            does not wait for the device.
        rows: (n,) int64, rows in ascending order.
        columns: (n,) int64, the column that each of `rows` excludes.
    """

    ends: np.ndarray
    rows: torch.Tensor
    columns: torch.Tensor

    @classmethod
    def of(cls, ends: np.ndarray, columns: np.ndarray) -> Exclusions:
        """Return exclusions given as compressed sparse rows.

        Args:
            ends: (rows + 1,) int64, start and end of each row's columns in `columns`.
            columns: (n,) int64, columns of all rows, concatenated in the order of the rows.
        """
        import numpy as np
        import torch

        rows = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        return cls(ends, torch.from_numpy(rows), torch.from_numpy(columns))

    def block(self, start: int, stop: int) -> Exclusions:
        """Return rows `start` to `stop`, excluding `stop`."""
        ends = self.ends[start : stop + 1]
        entries = slice(int(ends[0]), int(ends[-1]))
        return Exclusions(ends - ends[0], self.rows[entries] - start, self.columns[entries])


@dataclass(frozen=True)
class Anchors:
    """Positive pairs to contrast with the rest of the batch.

    Args:
        queries: (rows,) int64, row of each pair's query in the query embeddings.
        products: (rows,) int64, row of each pair's product in the product embeddings.
        not_negative_products: Rows of the product embeddings to exclude from each pair's negatives, including
            the pair's own product.
        not_negative_queries: Rows of the query embeddings to exclude, including the pair's own query.
    """

    queries: torch.Tensor
    products: torch.Tensor
    not_negative_products: Exclusions
    not_negative_queries: Exclusions

    def __len__(self) -> int:
        return len(self.queries)

    def block(self, start: int, stop: int) -> Anchors:
        """Return pairs `start` to `stop`, excluding `stop`, to compute scores in parts."""
        return Anchors(
            queries=self.queries[start:stop],
            products=self.products[start:stop],
            not_negative_products=self.not_negative_products.block(start, stop),
            not_negative_queries=self.not_negative_queries.block(start, stop),
        )
