"""Hard negatives of a batch, each with the query and the positive that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Triples:
    """Positive pairs, each with one of its own hard negatives.

    A positive with three hard negatives makes three triples. Known positives of the query, and products equal
    to the positive by text or id, are left out.

    Args:
        queries: (triples,) int64, the query as a row of the query embeddings.
        positives: (triples,) int64, the positive as a row of the product embeddings.
        negatives: (triples,) int64, the hard negative as a row of the product embeddings.
    """

    queries: torch.Tensor
    positives: torch.Tensor
    negatives: torch.Tensor

    def __len__(self) -> int:
        return len(self.queries)

    def block(self, start: int, stop: int) -> Triples:
        """Return triples `start` to `stop`, `stop` not included, so that losses can be computed in parts."""
        return Triples(
            queries=self.queries[start:stop],
            positives=self.positives[start:stop],
            negatives=self.negatives[start:stop],
        )
