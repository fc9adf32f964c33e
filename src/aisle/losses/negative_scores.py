"""Scores of anchors with all products of the batch, and which of them are negatives."""

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


def hardest(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the highest masked score of each row, (rows,); a row without any returns some finite number."""
    import torch

    floor = torch.finfo(scores.dtype).min
    best = scores.detach().masked_fill(~mask, floor).argmax(dim=1, keepdim=True)
    return scores.take_along_dim(best, dim=1)[:, 0]


def mean_over(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of the masked values of each row, (rows,); 0 for a row without any."""
    return (values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
