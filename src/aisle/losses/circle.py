"""The loss `circle`: each similarity is weighted by its distance from its optimum."""

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
class CircleParameters(Parameters):
    """Parameters of the circle loss."""

    circle_margin: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Relaxation m of the circle loss: positives aim at 1 + m, negatives at -m."""
    circle_gamma: Annotated[float, Field(gt=0)] = 80.0
    """Scale of the weighted similarities, in the circle loss."""


def circle(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    positive_sets: PositiveSets,
    *,
    margin: float,
    gamma: float,
) -> torch.Tensor:
    """Return the circle loss of each query, (rows,).

        log(1 + sum over n of exp(gamma a_n (cos_n - m)) * sum over p of exp(-gamma a_p (cos_p - 1 + m)))

    for positives p and negatives n, with a_p = max(0, 1 + m - cos_p) and a_n = max(0, cos_n + m), which have
    no gradient. Equation 6 of the source, with the optima of its section 3.3. A query without negatives has
    loss 0.

    Args:
        query_embeddings: (queries, dim), unit L2 norm.
        product_embeddings: (products, dim), unit L2 norm.
        positive_sets: Queries with their positives, and the texts to exclude from their negatives.
        margin: Relaxation m.
        gamma: Scale.
    """
    import torch

    cosines = rows_of(query_embeddings, positive_sets.queries) @ product_embeddings.T
    fixed = cosines.detach()
    together = -gamma * (1 + margin - fixed).clamp(min=0) * (cosines - 1 + margin)
    apart = gamma * (fixed + margin).clamp(min=0) * (cosines - margin)
    negatives = negatives_mask(cosines, positive_sets.not_negatives)
    exponent = log_sum_exp(apart, negatives) + log_sum_exp(
        together, positives_mask(cosines, positive_sets.positives)
    )
    return torch.nn.functional.softplus(exponent)


LOSS = Loss(
    name="circle",
    function=circle,
    help="weights each similarity of a query by its distance from its optimum",
    source="circle loss, https://arxiv.org/abs/2002.10857",
    other_names=("CircleLoss",),
    inputs=("positive_sets",),
    over_batch=True,
    unit="query",
    parameters=CircleParameters,
    comparison=PRODUCTS_OF_THE_BATCH,
)
