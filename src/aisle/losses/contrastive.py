"""The loss `contrastive`: relevant pairs are drawn together, others apart up to a margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from aisle.losses.embedding_rows import pair_cosines
from aisle.losses.label_checks import equal_relevance
from aisle.losses.parameters import Parameters
from aisle.losses.specification import Loss

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ContrastiveParameters(Parameters):
    """Parameters of the contrastive loss."""

    contrastive_margin: Annotated[float, Field(gt=0, le=2)] = 0.5
    """Distance (1 - cosine) from which on an irrelevant pair has no loss, in the contrastive loss."""


def contrastive(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    relevance: torch.Tensor,
    *,
    margin: float,
) -> torch.Tensor:
    """Return (y d^2 + (1 - y) max(0, margin - d)^2) / 2 for each pair, with d = 1 - cos.

    Args:
        query_embeddings: (pairs, dim), unit L2 norm.
        product_embeddings: (pairs, dim), unit L2 norm.
        relevance: (pairs,) in [0, 1].
        margin: Distance from which on an irrelevant pair has no loss.

    Returns:
        (pairs,) losses.
    """
    distances = 1 - pair_cosines(query_embeddings, product_embeddings)
    apart = (margin - distances).clamp(min=0)
    return (relevance * distances**2 + (1 - relevance) * apart**2) / 2


LOSS = Loss(
    name="contrastive",
    function=contrastive,
    help="draws relevant pairs together, and irrelevant pairs apart up to a margin",
    source="Hadsell, Chopra and LeCun, https://doi.org/10.1109/CVPR.2006.100",
    other_names=("ContrastiveLoss",),
    inputs=("relevance",),
    parameters=ContrastiveParameters,
    refuse=equal_relevance,
)
