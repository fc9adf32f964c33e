"""Objectives: pure functions of embeddings and labels, one loss per pair.

Returning a loss per pair, not its mean, lets the training loop take exact means over the pairs of a step,
however they are spread over accumulated batches and processes.
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
    query_rows: torch.Tensor | None = None,
    product_rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the scaled-cosine cross-entropy of each positive pair against the rest of the batch.

    With `negatives="products"`: -log softmax over the batch's products (InfoNCE,
    https://arxiv.org/abs/1807.03748; multiple negatives ranking, https://arxiv.org/abs/1705.00652).
    With `"both"`: the mean of both directions, each text held against all other queries and products
    of the batch (the bidirectional loss of GTE, https://arxiv.org/abs/2308.03281, eq. 2, averaged).

    Texts that occur more than once are no negatives to each other: what shares a row with a pair's own
    query or product is masked.

    Args:
        query_embeddings: (pairs, dim), unit L2 norm.
        product_embeddings: (pairs, dim), unit L2 norm.
        temperature: cosines are divided by it.
        negatives: what a pair is held against.
        query_rows: (pairs,) equal for equal query texts; all distinct when None.
        product_rows: (pairs,) likewise for products, numbered in the same space as `query_rows`.

    Returns:
        (pairs,) losses.
    """
    count = len(query_embeddings)
    unique = torch.arange(count, device=query_embeddings.device)
    query_rows = unique if query_rows is None else query_rows
    product_rows = unique + count if product_rows is None else product_rows
    # A pair's own product, and the products of pairs with the same query, are positives: never negatives.
    same_pair = (query_rows[:, None] == query_rows[None, :]) | (
        product_rows[:, None] == product_rows[None, :]
    )
    own = torch.eye(count, dtype=torch.bool, device=query_embeddings.device)
    to_products = _masked(query_embeddings @ product_embeddings.T / temperature, same_pair & ~own)
    if negatives == "products":
        return _cross_entropy(to_products)
    to_queries = _masked(query_embeddings @ query_embeddings.T / temperature, same_pair)
    between_products = _masked(product_embeddings @ product_embeddings.T / temperature, same_pair)
    forward = _cross_entropy(torch.cat([to_products, to_queries], dim=1))
    backward = _cross_entropy(torch.cat([to_products.T, between_products], dim=1))
    return (forward + backward) / 2


def _masked(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(mask, float("-inf"))


def _cross_entropy(scores: torch.Tensor) -> torch.Tensor:
    """-log softmax of each row at its own column: row i's positive stands in column i."""
    return torch.logsumexp(scores, dim=1) - scores.diagonal()
