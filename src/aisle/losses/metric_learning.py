"""Losses of pytorch-metric-learning, computed for queries with their positives and negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aisle.losses.embedding_rows import rows_of
from aisle.losses.negative_scores import negatives_mask
from aisle.losses.positive_sets import PositiveSets

if TYPE_CHECKING:
    import torch


def loss_of_queries(
    loss: Any, query_embeddings: torch.Tensor, product_embeddings: torch.Tensor, sets: PositiveSets
) -> torch.Tensor:
    """Return the loss of each query, (rows,), by a loss of the library that takes a matrix of similarities.

    The library's `forward` returns 0 for a single positive and a single negative, and its reducers divide by
    counts of the batch. A process that has a small share of the queries would then get another loss, so its
    `mat_based_loss` is called: its losses are per row, before any reduction.

    Args:
        loss: A `GenericPairLoss` of the library, with `mat_based_loss`.
        query_embeddings: (queries, dim), unit L2 norm.
        product_embeddings: (products, dim), unit L2 norm.
        sets: Queries with their positives, and the texts to exclude from their negatives.
    """
    import torch

    cosines = rows_of(query_embeddings, sets.queries) @ product_embeddings.T
    negatives = torch.nonzero(negatives_mask(cosines, sets.not_negatives), as_tuple=True)
    computed = loss.mat_based_loss(cosines, (sets.positives.rows, sets.positives.columns, *negatives))
    losses: torch.Tensor = computed["loss"]["losses"]
    return losses.reshape(-1)
