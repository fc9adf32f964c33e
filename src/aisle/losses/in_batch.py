"""The loss `in_batch`: a query's product should score higher than the rest of the batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from aisle.losses.anchors import Anchors, Exclusions
from aisle.losses.embedding_rows import pair_cosines, rows_of
from aisle.losses.in_batch_gradient import in_batch_gradient
from aisle.losses.parameters import Temperature
from aisle.losses.specification import BatchContents, Comparison, Loss

if TYPE_CHECKING:
    import numpy as np
    import torch

Direction = Literal["query_to_product", "product_to_query", "query_to_query", "product_to_product"]


@dataclass(frozen=True)
class InBatchParameters(Temperature):
    """Parameters of the in_batch loss."""

    in_batch_directions: tuple[Direction, ...] = field(
        default=("query_to_product", "product_to_query", "query_to_query", "product_to_product"),
        metadata={"title": "In-batch directions"},
    )
    """Which sides the in_batch loss contrasts with which. query_to_product alone is the one-sided loss; with
    product_to_query it is symmetric; the other two add the texts of the own side as negatives. Hard negatives
    are among the products."""

    def problems(self) -> Iterator[str]:
        """Yield a message if queries are not contrasted with products, which is what a search ranks."""
        yield from super().problems()
        if "query_to_product" not in self.in_batch_directions:
            directions = " ".join(self.in_batch_directions)
            yield f"--in_batch_directions {directions}: query_to_product must be among them"


def in_batch(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    anchors: Anchors,
    *,
    temperature: float | torch.Tensor,
    directions: Collection[Direction],
) -> torch.Tensor:
    """Return the scaled-cosine cross-entropy of each positive pair against the rest of the batch.

    With s = cos / temperature, a pair (q, p) and its negatives n:

        forward  = -log( exp(s(q, p)) / (exp(s(q, p)) + sum of exp(s(q, n))) )
        backward = -log( exp(s(q, p)) / (exp(s(q, p)) + sum of exp(s(p, n))) )

    The negatives in the forward term are products (`query_to_product`) and queries (`query_to_query`). Those
    in the backward term are queries (`product_to_query`) and products (`product_to_product`). The loss is the
    forward term, or the mean of both terms if the directions include a backward direction. Only
    `query_to_product` is InfoNCE (https://arxiv.org/abs/1807.03748) or multiple negatives ranking
    (https://arxiv.org/abs/1705.00652). All four directions have the negatives of GTE
    (https://arxiv.org/abs/2308.03281, eq. 2), in two denominators instead of one.

    Args:
        query_embeddings: (queries, dim), unit L2 norm, each distinct query of the batch once.
        product_embeddings: (products, dim), unit L2 norm, each distinct product of the batch once. A product
            that is not the positive of any anchor is a negative of all anchors.
        anchors: Positive pairs, and the texts to exclude from their negatives.
        temperature: Number by which cosines are divided.
        directions: Sides to contrast with each other.

    Returns:
        (rows,) loss of each anchor; exactly 0 for an anchor without negatives.

    Raises:
        ValueError: `query_to_product` is not among the directions.
    """
    if "query_to_product" not in directions:
        raise ValueError(
            f"directions must include 'query_to_product', found {sorted(directions)}: add it, as a search "
            "scores products for a query"
        )
    queries = rows_of(query_embeddings, anchors.queries)
    products = rows_of(product_embeddings, anchors.products)
    own_scores = pair_cosines(queries, products) / temperature
    to_products = (product_embeddings, anchors.not_negative_products)
    to_queries = (query_embeddings, anchors.not_negative_queries)

    opponents = [to_products, to_queries] if "query_to_query" in directions else [to_products]
    forward = _cross_entropy(own_scores, queries / temperature, opponents)
    opponents = [to_queries] if "product_to_query" in directions else []
    opponents += [to_products] if "product_to_product" in directions else []
    if not opponents:
        return forward
    return (forward + _cross_entropy(own_scores, products / temperature, opponents)) / 2


def _cross_entropy(
    own_scores: torch.Tensor,
    scaled_anchors: torch.Tensor,
    opponents: list[tuple[torch.Tensor, Exclusions]],
) -> torch.Tensor:
    """Return log(1 + sum of exp(score - own score) over the negatives) for each anchor.

    Args:
        own_scores: (rows,) score of each anchor with its positive.
        scaled_anchors: (rows, dim), divided by the temperature.
        opponents: Embeddings to contrast with, (columns, dim), and columns to exclude for each row.
    """
    import torch

    candidates = torch.cat([embeddings for embeddings, _ in opponents])
    scores = scaled_anchors @ candidates.T
    # A finite floor, because the gradient of logsumexp over a row with only -inf is NaN.
    floor, offset = torch.finfo(scores.dtype).min, 0
    for embeddings, exclusions in opponents:
        scores[exclusions.rows, exclusions.columns + offset] = floor
        offset += len(embeddings)
    margins = scores.logsumexp(dim=1) - own_scores
    return torch.logaddexp(torch.zeros_like(margins), margins)


def _with_negatives(batch: BatchContents, parameters: InBatchParameters) -> np.ndarray:
    """Return for each positive whether it has a negative in the batch, (positives,) bool."""
    found: np.ndarray = batch.product_negatives > 0
    if {"query_to_query", "product_to_query"} & set(parameters.in_batch_directions):
        found |= batch.query_negatives > 0
    return found


LOSS = Loss(
    name="in_batch",
    function=in_batch,
    help="ranks a query's product above the products of the other queries in the batch",
    source="multiple negatives ranking, https://arxiv.org/abs/1705.00652; InfoNCE, https://arxiv.org/abs/1807.03748",
    other_names=("MultipleNegativesRanking", "InfoNCE"),
    inputs=("anchors",),
    over_batch=True,
    unit="positive",
    parameters=InBatchParameters,
    gradient=in_batch_gradient,
    default_for="unlabelled",
    comparison=Comparison(
        find=_with_negatives,
        nothing="no positive has a negative in its batch of {batch} pairs",
        remedy=("Give a higher --per_device_train_batch_size, or hard negatives (--hard_negatives_column)"),
    ),
)
