"""The loss `margin_mse`: differences of a query's scores should equal the teacher's differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.losses.embedding_rows import rows_of
from aisle.losses.parameters import Temperature
from aisle.losses.scored_lists import ScoredLists
from aisle.losses.specification import Loss

if TYPE_CHECKING:
    import torch


def margin_mse(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    scored_lists: ScoredLists,
    *,
    temperature: float | torch.Tensor,
) -> torch.Tensor:
    """Return for each query the mean of ((s_i - s_j) - (t_i - t_j))^2 over all pairs i < j of its products.

    With s = cos / temperature and the teacher's scores t. For a positive and a negative, this is equation 3
    of the source; a longer list has more pairs, of which those of two negatives count too. With d = s - t and
    n products, the sum over all pairs is n times the sum of squared distances of d from its mean.

    Args:
        query_embeddings: (queries, dim), unit L2 norm.
        product_embeddings: (products, dim), unit L2 norm.
        scored_lists: Queries, each with its products and the teacher's scores.
        temperature: Number by which cosines are divided, to bring them to the scale of the teacher's scores.

    Returns:
        (rows,) losses.
    """
    cosines = rows_of(query_embeddings, scored_lists.queries) @ product_embeddings.T
    scores, mask = scored_lists.of_products(cosines)
    differences = (cosines / temperature - scores) * mask
    count = mask.sum(dim=1)
    mean = differences.sum(dim=1) / count
    return 2 * ((differences - mean[:, None]) ** 2 * mask).sum(dim=1) / (count - 1)


LOSS = Loss(
    name="margin_mse",
    function=margin_mse,
    help="fits the differences between a query's scores to a teacher's differences",
    source="margin-MSE, https://arxiv.org/abs/2010.02666",
    other_names=("MarginMSELoss",),
    inputs=("scored_lists",),
    over_batch=True,
    unit="list",
    parameters=Temperature,
    keeps_queries_together=True,
)
