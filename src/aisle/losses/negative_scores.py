"""Scores of queries with all products of the batch, and which of them are negatives or positives.

The losses that use them are also in pytorch-metric-learning, which the tests compare them with, term by term.
The library cannot compute them in training: its means are over the terms of a batch that are above 0; its
`forward` returns 0 for a single positive and negative, so that shares of processes would not add up; and it
selects by masks, for which the host waits for the GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from aisle.losses.anchors import Exclusions


def negatives_mask(scores: torch.Tensor, excluded: Exclusions) -> torch.Tensor:
    """Return whether each column is a negative of each row: (rows, columns) bool.

    Args:
        scores: (rows, columns) scores of the anchors with the products.
        excluded: Columns to exclude from each row's negatives.
    """
    import torch

    mask = torch.ones_like(scores, dtype=torch.bool)
    mask[excluded.rows, excluded.columns] = False
    return mask


def positives_mask(scores: torch.Tensor, positives: Exclusions) -> torch.Tensor:
    """Return whether each column is a positive of each row: (rows, columns) bool.

    Args:
        scores: (rows, columns) scores of the queries with the products.
        positives: Columns of each row's positives.
    """
    import torch

    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[positives.rows, positives.columns] = True
    return mask


def log_sum_exp(exponents: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the sum of exp over the masked exponents of each row, (rows,).

    A row without any returns the lowest finite number, so that no gradient is NaN.
    """
    import torch

    return exponents.masked_fill(~mask, torch.finfo(exponents.dtype).min).logsumexp(dim=1)


def hardest(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the highest masked score of each row, (rows,); a row without any returns some finite number."""
    import torch

    floor = torch.finfo(scores.dtype).min
    best = scores.detach().masked_fill(~mask, floor).argmax(dim=1, keepdim=True)
    return scores.take_along_dim(best, dim=1)[:, 0]


def mean_over(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of the masked values of each row, (rows,); 0 for a row without any."""
    return (values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
