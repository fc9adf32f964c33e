"""Positives of a batch, and the texts to exclude from their negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Exclusions:
    """For each anchor row, the columns to exclude from its negatives, as compressed sparse rows.

    Args:
        indptr: (rows + 1,) int64, start and end of each row's columns in `columns`.
        columns: (n,) int64, columns of all rows, concatenated in the order of the rows.
    """

    indptr: torch.Tensor
    columns: torch.Tensor

    def block(self, start: int, stop: int) -> Exclusions:
        """Return rows `start` to `stop`, excluding `stop`."""
        ends = self.indptr[start : stop + 1]
        first, last = int(ends[0]), int(ends[-1])
        return Exclusions(indptr=ends - first, columns=self.columns[first:last])

    def rows(self) -> torch.Tensor:
        """Return the row of each entry of `columns`, (n,) int64."""
        import torch

        rows = torch.arange(len(self.indptr) - 1, device=self.columns.device)
        return rows.repeat_interleave(self.indptr.diff(), output_size=len(self.columns))


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
