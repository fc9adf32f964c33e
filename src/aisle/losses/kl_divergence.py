"""The loss `kl_divergence`: a query's scores should rank its products as a teacher's scores do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from aisle.losses.embedding_rows import rows_of
from aisle.losses.parameters import Temperature
from aisle.losses.scored_lists import ScoredLists
from aisle.losses.specification import Loss

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class KlDivergenceParameters(Temperature):
    """Parameters of the kl_divergence loss."""

    kl_divergence_teacher_temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """The teacher's scores are divided by it, in the kl_divergence loss. Higher makes products more alike."""


def kl_divergence(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    scored_lists: ScoredLists,
    *,
    temperature: float | torch.Tensor,
    teacher_temperature: float,
) -> torch.Tensor:
    """Return for each query the Kullback-Leibler divergence of its scores from the teacher's.

        sum over its products i of p_i (log p_i - log q_i)

    with p the softmax of the teacher's scores / teacher_temperature and q that of cos / temperature, both
    over the products that the teacher scored for the query. It is 0 if both have the same probabilities.

    Args:
        query_embeddings: (queries, dim), unit L2 norm.
        product_embeddings: (products, dim), unit L2 norm.
        scored_lists: Queries, each with its products and the teacher's scores.
        temperature: Number by which cosines are divided.
        teacher_temperature: Number by which the teacher's scores are divided.

    Returns:
        (rows,) losses.
    """
    import torch

    cosines = rows_of(query_embeddings, scored_lists.queries) @ product_embeddings.T
    scores, mask = scored_lists.of_products(cosines)
    # A finite floor: its exponential is 0, and 0 times a finite difference is 0.
    floor = torch.finfo(cosines.dtype).min / 4
    teacher = (scores / teacher_temperature).masked_fill(~mask, floor).log_softmax(dim=1)
    student = (cosines / temperature).masked_fill(~mask, floor).log_softmax(dim=1)
    return (teacher.exp() * (teacher - student) * mask).sum(dim=1)


LOSS = Loss(
    name="kl_divergence",
    function=kl_divergence,
    help="fits the probabilities of a query's products to those of a teacher's scores",
    source="Hinton, Vinyals and Dean, https://arxiv.org/abs/1503.02531; for lists: https://arxiv.org/abs/2010.11386",
    other_names=("DistillKLDivLoss",),
    inputs=("scored_lists",),
    over_batch=True,
    unit="list",
    parameters=KlDivergenceParameters,
    keeps_queries_together=True,
)
