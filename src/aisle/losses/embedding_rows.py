"""Select rows of embeddings and compute cosines of pairs, for all loss functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def rows_of(embeddings: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rows of embeddings, (rows, dim), with a deterministic gradient.

    With plain indexing, the gradient of a row that is selected several times is summed in the order in which
    threads finish, so its last bits vary.
    """
    import torch

    return torch.nn.functional.embedding(rows, embeddings)


def pair_cosines(query_embeddings: torch.Tensor, product_embeddings: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each pair, (pairs,), from two (pairs, dim) embeddings of unit L2 norm."""
    return (query_embeddings * product_embeddings).sum(dim=1)
