"""The positives of a batch, and which texts to exclude from their negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Exclusions:
    """For each anchor row, the columns to exclude from its negatives, as compressed sparse rows.

    Args:
        indptr: (rows + 1,) int64, where each row's columns begin and end in `columns`.
        columns: (n,) int64, the columns of the first row, then those of the second, and so on.
    """

    indptr: torch.Tensor
    columns: torch.Tensor

    def block(self, start: int, stop: int) -> Exclusions:
        """Return rows `start` to `stop`, `stop` not included."""
        ends = self.indptr[start : stop + 1]
        first, last = int(ends[0]), int(ends[-1])
        return Exclusions(indptr=ends - first, columns=self.columns[first:last])

    def rows(self) -> torch.Tensor:
        """Return the row of each of `columns`, (n,) int64."""
        import torch

        rows = torch.arange(len(self.indptr) - 1, device=self.columns.device)
        return rows.repeat_interleave(self.indptr.diff(), output_size=len(self.columns))


@dataclass(frozen=True)
class Anchors:
    """Positive pairs that are contrasted with the rest of the batch.

    Args:
        queries: (rows,) int64, each pair's query as a row of the query embeddings.
        products: (rows,) int64, each pair's product as a row of the product embeddings.
        not_negative_products: rows of the product embeddings to exclude; every pair's own product is among
            them.
        not_negative_queries: rows of the query embeddings to exclude; every pair's own query is among them.
    """

    queries: torch.Tensor
    products: torch.Tensor
    not_negative_products: Exclusions
    not_negative_queries: Exclusions

    def __len__(self) -> int:
        return len(self.queries)

    def block(self, start: int, stop: int) -> Anchors:
        """Return pairs `start` to `stop`, `stop` not included, so that scores can be computed in parts."""
        return Anchors(
            queries=self.queries[start:stop],
            products=self.products[start:stop],
            not_negative_products=self.not_negative_products.block(start, stop),
            not_negative_queries=self.not_negative_queries.block(start, stop),
        )
