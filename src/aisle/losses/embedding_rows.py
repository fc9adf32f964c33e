"""Rows of embeddings and their cosines: what the loss functions share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def rows_of(embeddings: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rows of embeddings, (rows, dim), with a gradient that is the same to the bit every time.

    The gradient of plain indexing sums a row that is taken several times in whatever order the threads
    finish.
    """
    import torch

    return torch.nn.functional.embedding(rows, embeddings)


def pair_cosines(query_embeddings: torch.Tensor, product_embeddings: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each pair, (pairs,), from two (pairs, dim) embeddings of unit L2 norm."""
    return (query_embeddings * product_embeddings).sum(dim=1)
