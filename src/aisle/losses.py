"""Objectives: pure functions of embeddings and labels, one loss per pair.

Returning a loss per pair, not its mean, lets the training loop take exact means over the pairs of a step,
however they are spread over accumulated batches and processes. That is exact for `cosine_target`, whose loss
of a pair depends on that pair alone; `in_batch` and `cosent` compare the pairs of a batch with each other.
"""

from __future__ import annotations

from typing import Literal

import torch

Negatives = Literal["products", "both"]


def cosine_target(
    query_embeddings: torch.Tensor, product_embeddings: torch.Tensor, relevance: torch.Tensor
) -> torch.Tensor:
    """Return (y (1 - cos) + max(0, (1 - y) cos))^2 for each pair.

    A relevant pair is drawn to cosine 1, an irrelevant one to cosine 0 or below. Source: the loss of
    PEFT's semantic-search example, https://huggingface.co/docs/peft/v0.6.2/task_guides/semantic-similarity-lora

    Args:
        query_embeddings: (pairs, dim), unit L2 norm.
        product_embeddings: (pairs, dim), unit L2 norm.
        relevance: (pairs,) in [0, 1].

    Returns:
        (pairs,) losses.
    """
    cosine = (query_embeddings * product_embeddings).sum(dim=1)
    pull = relevance * (1 - cosine)
    push = ((1 - relevance) * cosine).clamp(min=0)
    return (pull + push) ** 2


def in_batch(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    *,
    temperature: float,
    negatives: Negatives = "both",
    relevance: torch.Tensor | None = None,
    query_rows: torch.Tensor | None = None,
    product_rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the scaled-cosine cross-entropy of each positive pair against the rest of the batch.

    With `negatives="products"`: -log softmax over the batch's products (InfoNCE,
    https://arxiv.org/abs/1807.03748; multiple negatives ranking, https://arxiv.org/abs/1705.00652).
    With `"both"`: the mean of both directions, each text held against all other queries and products
    of the batch (the bidirectional loss of GTE, https://arxiv.org/abs/2308.03281, eq. 2, averaged).

    Where pairs are judged, those with a relevance above 0.5 are the positives and the others bring
    their texts as negatives: a product judged irrelevant to a query of the batch is a hard one. What is
    known to be right is never a negative: equal texts, and other positives of the same query or product.

    Args:
        query_embeddings: (pairs, dim), unit L2 norm.
        product_embeddings: (pairs, dim), unit L2 norm.
        temperature: cosines are divided by it.
        negatives: what a pair is held against.
        relevance: (pairs,) in [0, 1]; None when every pair is a positive.
        query_rows: (pairs,) equal for equal query texts; all distinct when None.
        product_rows: (pairs,) likewise for products.

    Returns:
        (pairs,) losses, whose mean is that of the positives; 0 for pairs that are no positives.
    """
    device, count = query_embeddings.device, len(query_embeddings)
    unique = torch.arange(count, device=device)
    query_rows = unique if query_rows is None else query_rows
    product_rows = unique if product_rows is None else product_rows
    positive = torch.ones(count, dtype=torch.bool, device=device) if relevance is None else relevance > 0.5
    same_query = query_rows[:, None] == query_rows[None, :]
    same_product = product_rows[:, None] == product_rows[None, :]
    own = torch.eye(count, dtype=torch.bool, device=device)
    right = same_product | (same_query & positive[None, :])
    to_products = (query_embeddings @ product_embeddings.T / temperature).masked_fill(
        right & ~own, -torch.inf
    )
    if negatives == "products":
        losses = _cross_entropy(to_products)
    else:
        right_queries = same_query | (same_product & positive[None, :])
        to_queries = (query_embeddings @ query_embeddings.T / temperature).masked_fill(
            right_queries, -torch.inf
        )
        among_products = (product_embeddings @ product_embeddings.T / temperature).masked_fill(
            right, -torch.inf
        )
        from_products = (product_embeddings @ query_embeddings.T / temperature).masked_fill(
            right_queries & ~own, -torch.inf
        )
        forward = _cross_entropy(torch.cat([to_products, to_queries], dim=1))
        backward = _cross_entropy(torch.cat([from_products, among_products], dim=1))
        losses = (forward + backward) / 2
    weights = positive * (count / positive.sum().clamp(min=1))
    return losses * weights


def cosent(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    relevance: torch.Tensor,
    *,
    temperature: float,
) -> torch.Tensor:
    """Return log(1 + sum of exp((cos_i - cos_j) / temperature) over all i, j with y_i < y_j), for each pair.

    It ranks pairs: whatever is more relevant, to whichever query, should have the higher cosine, which is
    what ROC-AUC measures. Graded relevance is used in full. Source: CoSENT,
    https://kexue.fm/archives/8847, equation 6 there.

    Args:
        query_embeddings: (pairs, dim), unit L2 norm.
        product_embeddings: (pairs, dim), unit L2 norm.
        relevance: (pairs,) in [0, 1].
        temperature: cosines are divided by it.

    Returns:
        (pairs,) the batch's one loss, at every pair; 0 where all pairs are equally relevant.
    """
    cosine = (query_embeddings * product_embeddings).sum(dim=1) / temperature
    margins = cosine[:, None] - cosine[None, :]
    unequal = relevance[:, None] < relevance[None, :]
    zero = torch.zeros(1, device=cosine.device, dtype=cosine.dtype)
    loss = torch.logsumexp(torch.cat([zero, margins[unequal]]), dim=0)
    return loss.expand(len(cosine))


def _cross_entropy(scores: torch.Tensor) -> torch.Tensor:
    """-log softmax of each row at its own column: row i's positive stands in column i."""
    return torch.logsumexp(scores, dim=1) - scores.diagonal()
