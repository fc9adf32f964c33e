"""The loss `online_contrastive`: the contrastive loss, with negatives of the batch."""

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

ContrastiveMining = Literal["hard", "all"]


@dataclass(frozen=True)
class OnlineContrastiveParameters(Parameters):
    """Parameters of the online_contrastive loss."""

    online_contrastive_margin: Annotated[float, Field(gt=0, le=2)] = 0.5
    """Distance (1 - cosine) from which on a negative has no loss, in the online_contrastive loss."""
    online_contrastive_mining: ContrastiveMining = "hard"
    """Negatives of the online_contrastive loss. hard: the nearest of the batch. all: the mean over all."""


def online_contrastive(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    anchors: Anchors,
    *,
    margin: float,
    mining: ContrastiveMining,
) -> torch.Tensor:
    """Return (d(q, p)^2 + max(0, margin - d(q, n))^2) / 2 of each positive pair (q, p), with d = 1 - cos.

    n is the nearest negative of q in the batch, or, with mining `all`, the second term is the mean over all
    negatives. Each positive counts once, however batches are divided.

    Quaterion's OnlineContrastiveLoss (https://github.com/qdrant/quaterion at 082b0295) is another function:
    its `hard` also takes only the farthest positive of each anchor, it averages positives and negatives
    apart, each over the pairs that a batch happens to mine, and it does not square distances.

    Args:
        query_embeddings: (queries, dim), unit L2 norm.
        product_embeddings: (products, dim), unit L2 norm.
        anchors: Positive pairs, and the texts to exclude from their negatives.
        margin: Distance from which on a negative has no loss.
        mining: Negatives to take.

    Returns:
        (rows,) loss of each anchor; without negatives it only has the first term.
    """
    queries = rows_of(query_embeddings, anchors.queries)
    together = (1 - pair_cosines(queries, rows_of(product_embeddings, anchors.products))) ** 2
    scores = queries @ product_embeddings.T
    negatives = negatives_mask(scores, anchors.not_negative_products)
    if mining == "all":
        return (together + mean_over((margin - 1 + scores).clamp(min=0) ** 2, negatives)) / 2
    apart = (margin - 1 + hardest(scores, negatives)).clamp(min=0) ** 2
    return (together + apart * negatives.any(dim=1)) / 2


LOSS = Loss(
    name="online_contrastive",
    function=online_contrastive,
    help="draws a query's product near, and the nearest wrong product of the batch apart up to a margin",
    source="Hadsell, Chopra and LeCun, https://doi.org/10.1109/CVPR.2006.100",
    other_names=("OnlineContrastiveLoss",),
    inputs=("anchors",),
    over_batch=True,
    unit="positive",
    parameters=OnlineContrastiveParameters,
    comparison=PRODUCTS_OF_THE_BATCH,
)
