"""Hard negatives of a batch, each with its query and its positive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Triples:
    """Positive pairs, each with a hard negative.

    A positive with three hard negatives makes three triples. Known positives of the query, and products equal
    to the positive by text or id, are left out.

    Args:
        queries: (triples,) int64, row of the query in the query embeddings.
        positives: (triples,) int64, row of the positive in the product embeddings.
        negatives: (triples,) int64, row of the hard negative in the product embeddings.
    """

    queries: torch.Tensor
    positives: torch.Tensor
    negatives: torch.Tensor

    def __len__(self) -> int:
        return len(self.queries)

    def block(self, start: int, stop: int) -> Triples:
        """Return triples `start` to `stop`, excluding `stop`, to compute losses in parts."""
        return Triples(
            queries=self.queries[start:stop],
            positives=self.positives[start:stop],
            negatives=self.negatives[start:stop],
        )
