"""Metrics of a training batch: each query ranks the batch's products, with embeddings that the step has."""

from __future__ import annotations

import torch

from aisle.training.contrast import Contrast
from aisle.training.group_retrieval import FIGURES, ranking_figures

NAMES = tuple(f"batch_{name}" for name in FIGURES)
"""Names of the metrics in the log."""
SCORES_AT_A_TIME = 1 << 22
"""Most cosines to sort at a time."""


def batch_figures(embeddings: torch.Tensor, contrast: Contrast) -> torch.Tensor:
    """Return the number of this rank's queries, then the sum of each of `FIGURES`: (1 + figures,) float32.

    A query ranks its positives and its negatives in the batch; other known positives are not ranked.

    Args:
        embeddings: (texts, dim) embeddings of the whole batch, unit L2 norm, without a graph.
        contrast: The batch's positive sets.
    """
    sets = contrast.positive_sets
    assert sets is not None  # the collator makes them if batches are measured
    queries, products = embeddings[contrast.queries], embeddings[contrast.products]
    total = torch.zeros(1 + len(FIGURES), dtype=torch.float64, device=embeddings.device)
    rows = max(SCORES_AT_A_TIME // max(len(products), 1), 1)
    for start in range(0, len(sets), rows):
        block = sets.block(start, start + rows)
        cosines = queries[block.queries] @ products.T
        right, ignored = (
            torch.zeros_like(cosines, dtype=torch.bool),
            torch.zeros_like(cosines, dtype=torch.bool),
        )
        ignored[block.not_negatives.rows, block.not_negatives.columns] = True
        right[block.positives.rows, block.positives.columns] = True
        figures = ranking_figures(cosines, right, ignored & ~right)
        total[0] += len(figures)
        total[1:] += figures.sum(dim=0)
    return total.float()
