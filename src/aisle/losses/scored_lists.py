"""Queries of a batch, each with the products that a teacher scored for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aisle.losses.anchors import Exclusions

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ScoredLists:
    """Queries of a batch, each with at least two products that a teacher scored for it.

    Args:
        queries: (rows,) int64, row of each query in the query embeddings.
        products: Rows of the product embeddings that the teacher scored for each query.
        scores: (n,) float32, the teacher's score of each entry of `products`.
    """

    queries: torch.Tensor
    products: Exclusions
    scores: torch.Tensor

    def __len__(self) -> int:
        return len(self.queries)

    def block(self, start: int, stop: int) -> ScoredLists:
        """Return queries `start` to `stop`, excluding `stop`, to compute scores in parts."""
        entries = slice(int(self.products.ends[start]), int(self.products.ends[stop]))
        return ScoredLists(
            queries=self.queries[start:stop],
            products=self.products.block(start, stop),
            scores=self.scores[entries],
        )

    def of_products(self, cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the teacher's scores in the shape of the cosines, and a mask of the scored products.

        Args:
            cosines: (rows, products) cosines of the queries with all products of the batch.

        Returns:
            (rows, products) scores, 0 for a product that was not scored, and (rows, products) bool.
        """
        import torch

        scores, mask = torch.zeros_like(cosines), torch.zeros_like(cosines, dtype=torch.bool)
        places = (self.products.rows, self.products.columns)
        scores[places] = self.scores.to(cosines.dtype)
        mask[places] = True
        return scores, mask
