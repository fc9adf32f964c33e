"""Sum of the losses `in_batch` in all directions, together with its gradient, in few operations.

On the cached vectors of a frozen encoder, the loss takes most of a training step. Here a step computes the
cosine of two texts once for both of them, and multiplies matrices twice, where autograd does so six times.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from aisle.losses.anchors import Anchors

MOST_COSINES = 1 << 24
"""Most cosines in memory: those of all texts of a batch, or of all anchors."""
ALL_DIRECTIONS = 4


def in_batch_gradient(
    embeddings: torch.Tensor,
    queries: torch.Tensor,
    products: torch.Tensor,
    anchors: Anchors,
    *,
    temperature: float,
    directions: Collection[str],
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return `scale` times the summed `in_batch` losses, and its gradient; None where autograd is better.

    With p the softmax of an anchor's scores over its negatives and m = logsumexp - own score, each term
    log(1 + exp(m)) of the loss has the gradient sigmoid(m) p with respect to the negatives' scores, and
    -sigmoid(m) with respect to the own score. A cosine belongs to two embeddings, so if G is the gradient
    with respect to all cosines, that of the embeddings is (G + G') embeddings.

    It covers losses in all four directions, for batches in which no text is a query and a product, and most
    texts belong to a positive.

    Args:
        embeddings: (texts, dim) unit L2 norm, on the CPU: on a GPU, sums of the same cosine would be added in
            any order.
        queries: (queries,) rows of the distinct queries.
        products: (products,) rows of the distinct products.
        anchors: Positive pairs, and the texts to exclude from their negatives.
        temperature: Number by which cosines are divided.
        directions: Sides to contrast with each other.
        scale: Factor of the loss.

    Returns:
        Scalar and (texts, dim), without a graph.
    """
    import torch

    texts, count = len(embeddings), len(anchors)
    own_text_each = texts == len(queries) + len(products)
    covered = len(set(directions)) == ALL_DIRECTIONS and own_text_each and texts <= 2 * count
    if not covered or 2 * count * texts > MOST_COSINES:
        return None
    pair = torch.arange(2 * count)
    own = torch.cat([queries[anchors.queries], products[anchors.products]])
    partner = own.roll(count)
    # Scores are to base 2, because exp2 takes half the time of exp.
    factor = math.log2(math.e) / temperature
    scores = _cosines(embeddings, factor).index_select(0, own)
    own_scores = scores[pair, partner]
    floor = torch.finfo(scores.dtype).min  # finite, as the difference of two infinities is NaN
    for first in (0, count):
        for side, excluded in (
            (products, anchors.not_negative_products),
            (queries, anchors.not_negative_queries),
        ):
            scores[excluded.rows + first, side[excluded.columns]] = floor
    highest = scores.amax(dim=1)
    powers = scores.sub_(highest[:, None]).exp2_()
    sums = powers.sum(dim=1)
    margins = (sums.log2() + highest - own_scores) * math.log(2)
    loss = torch.nn.functional.softplus(margins).sum() * (scale / 2)
    weights = torch.sigmoid(margins) * (scale / 2)
    of_cosines = embeddings.new_zeros(texts, texts)
    of_cosines.index_add_(0, own, powers.mul_((weights / sums)[:, None]))
    of_cosines.index_put_((own, partner), -weights, accumulate=True)
    of_cosines = of_cosines + of_cosines.T
    unused = embeddings.new_empty(())
    return loss, torch.addmm(unused, of_cosines, embeddings, beta=0, alpha=1 / temperature)


def _cosines(embeddings: torch.Tensor, factor: float) -> torch.Tensor:
    """Return `factor` times the cosine of each text with each text: (texts, texts).

    The cosines of the second half with the first are copied, as they are those of the first with the second.
    """
    import torch

    texts, half = len(embeddings), len(embeddings) // 2
    cosines = embeddings.new_empty(texts, texts)
    for rows, columns in ((slice(half), slice(None)), (slice(half, None), slice(half, None))):
        block = cosines[rows, columns]
        torch.addmm(block, embeddings[rows], embeddings[columns].T, beta=0, alpha=factor, out=block)
    cosines[half:, :half] = cosines[:half, half:].T
    return cosines
