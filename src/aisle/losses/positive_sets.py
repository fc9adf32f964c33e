"""Queries of a batch, each with all its positives and its negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aisle.losses.anchors import Exclusions

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PositiveSets:
    """Queries with a positive in the batch, each with the columns of its positives and of its negatives.

    Args:
        queries: (rows,) int64, row of each query in the query embeddings.
        positives: Rows of the product embeddings that are the query's positives.
        not_negatives: Rows of the product embeddings to exclude from its negatives, including the positives.
    """

    queries: torch.Tensor
    positives: Exclusions
    not_negatives: Exclusions

    def __len__(self) -> int:
        return len(self.queries)

    def block(self, start: int, stop: int) -> PositiveSets:
        """Return queries `start` to `stop`, excluding `stop`, to compute scores in parts."""
        return PositiveSets(
            queries=self.queries[start:stop],
            positives=self.positives.block(start, stop),
            not_negatives=self.not_negatives.block(start, stop),
        )
