"""The loss `multi_similarity`: all positives and negatives of a query, weighted by their similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from aisle.losses.embedding_rows import rows_of
from aisle.losses.negative_scores import log_sum_exp, negatives_mask, positives_mask
from aisle.losses.parameters import Parameters
from aisle.losses.positive_sets import PositiveSets
from aisle.losses.specification import PRODUCTS_OF_THE_BATCH, Loss

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MultiSimilarityParameters(Parameters):
    """Parameters of the multi_similarity loss."""

    multi_similarity_alpha: Annotated[float, Field(gt=0)] = 2.0
    """Weight of the exponents of positives, in the multi_similarity loss."""
    multi_similarity_beta: Annotated[float, Field(gt=0)] = 50.0
    """Weight of the exponents of negatives, in the multi_similarity loss."""
    multi_similarity_base: Annotated[float, Field(ge=-1, le=1)] = 0.5
    """Cosine that positives should exceed and negatives should not, in the multi_similarity loss."""


def multi_similarity(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    positive_sets: PositiveSets,
    *,
    alpha: float,
    beta: float,
    base: float,
) -> torch.Tensor:
    """Return the multi-similarity loss of each query, (rows,).

        log(1 + sum of exp(-alpha (cos(q, p) - base)) over positives p) / alpha
        + log(1 + sum of exp(beta (cos(q, n) - base)) over negatives n) / beta

    Equation 15 of the source, without its mining of pairs.

    Args:
        query_embeddings: (queries, dim), unit L2 norm.
        product_embeddings: (products, dim), unit L2 norm.
        positive_sets: Queries with their positives, and the texts to exclude from their negatives.
        alpha: Weight of the exponents of positives.
        beta: Weight of the exponents of negatives.
        base: Cosine that positives should exceed and negatives should not.
    """
    import torch

    cosines = rows_of(query_embeddings, positive_sets.queries) @ product_embeddings.T
    positives = positives_mask(cosines, positive_sets.positives)
    negatives = negatives_mask(cosines, positive_sets.not_negatives)
    together = log_sum_exp(-alpha * (cosines - base), positives)
    apart = log_sum_exp(beta * (cosines - base), negatives)
    zero = torch.zeros_like(together)
    return torch.logaddexp(zero, together) / alpha + torch.logaddexp(zero, apart) / beta


LOSS = Loss(
    name="multi_similarity",
    function=multi_similarity,
    help="weights all positives and negatives of a query by their similarity",
    source="multi-similarity, https://arxiv.org/abs/1904.06627",
    other_names=("MultiSimilarityLoss",),
    inputs=("positive_sets",),
    over_batch=True,
    unit="query",
    parameters=MultiSimilarityParameters,
    comparison=PRODUCTS_OF_THE_BATCH,
)
