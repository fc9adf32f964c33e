"""The loss `triplet`: a query's product should score higher than the batch's negatives, by a margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from aisle.losses.anchors import Anchors
from aisle.losses.embedding_rows import pair_cosines, rows_of
from aisle.losses.negative_scores import hardest, mean_over, negatives_mask
from aisle.losses.parameters import Parameters
from aisle.losses.specification import PRODUCTS_OF_THE_BATCH, Loss

if TYPE_CHECKING:
    import torch

TripletMining = Literal["all", "hard", "semi_hard"]


@dataclass(frozen=True)
class TripletParameters(Parameters):
    """Parameters of the triplet loss."""

    triplet_margin: Annotated[float, Field(gt=0, le=2)] = 0.2
    """How much higher than a negative a positive's cosine should be, in the triplet loss."""
    triplet_mining: TripletMining = "hard"
    """Negatives of the triplet loss. all: the mean over all of the batch. hard: the negative with the highest
    cosine. semi_hard: the highest below the positive's, or the lowest of all if none is below."""


def triplet(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    anchors: Anchors,
    *,
    margin: float,
    mining: TripletMining,
) -> torch.Tensor:
    """Return max(0, margin - cos(q, p) + cos(q, n)) of each positive pair (q, p), for its negatives n.

    With mining `all`, the loss of a pair is the mean over all its negatives, zeros included. Libraries divide
    by the number of terms above 0 of the whole batch, which no single process and no accumulated batch knows.

    Semi-hard is section 3.2 of the source: the hardest negative that is farther than the positive.

    Args:
        query_embeddings: (queries, dim), unit L2 norm.
        product_embeddings: (products, dim), unit L2 norm.
        anchors: Positive pairs, and the texts to exclude from their negatives.
        margin: Smallest difference of cosines without a loss.
        mining: Negatives to take.

    Returns:
        (rows,) loss of each anchor; exactly 0 for an anchor without negatives.
    """
    queries = rows_of(query_embeddings, anchors.queries)
    own = pair_cosines(queries, rows_of(product_embeddings, anchors.products))
    scores = queries @ product_embeddings.T
    negatives = negatives_mask(scores, anchors.not_negative_products)
    if mining == "all":
        return mean_over((margin - own[:, None] + scores).clamp(min=0), negatives)
    chosen = hardest(scores, negatives)
    if mining == "semi_hard":
        below = negatives & (scores < own[:, None]).detach()
        easiest = -hardest(-scores, negatives)
        chosen = hardest(scores, below).where(below.any(dim=1), easiest)
    return (margin - own + chosen).clamp(min=0) * negatives.any(dim=1)


LOSS = Loss(
    name="triplet",
    function=triplet,
    help="keeps a query's product ahead of the batch's others by a margin",
    source="FaceNet, https://arxiv.org/abs/1503.03832",
    other_names=("TripletMarginLoss", "BatchHardTripletLoss", "BatchSemiHardTripletLoss"),
    inputs=("anchors",),
    over_batch=True,
    unit="positive",
    parameters=TripletParameters,
    comparison=PRODUCTS_OF_THE_BATCH,
)
