"""Objectives: pure functions of embeddings and labels, one loss per pair.

Returning a loss per pair, not its mean, lets the training loop weigh the pairs of a step exactly, however
they are spread over accumulated batches and processes. The loss of a pair depends on that pair alone in
`cosine_target`, on its query's other pairs in `listwise`, and on the whole batch in `in_batch` and `cosent`.

All compute in the dtype of the embeddings, float32 in training. A temperature may be a number or a 0-dim
tensor, which then gets a gradient.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

Direction = Literal["query_to_product", "product_to_query", "query_to_query", "product_to_product"]


@dataclass(frozen=True)
class Exclusions:
    """For each anchor row, the columns that are no negatives of it, as compressed sparse rows.

    Args:
        indptr: (rows + 1,) int64, where each row's columns begin and end in `columns`.
        columns: (n,) int64, the columns of the first row, then those of the second, and so on.
    """

    indptr: torch.Tensor
    columns: torch.Tensor

    def block(self, start: int, stop: int) -> Exclusions:
        """Return rows `start` to `stop`, the latter left out."""
        ends = self.indptr[start : stop + 1]
        first, last = int(ends[0]), int(ends[-1])
        return Exclusions(indptr=ends - first, columns=self.columns[first:last])

    def rows(self) -> torch.Tensor:
        """Return the row of each of `columns`, (n,) int64."""
        rows = torch.arange(len(self.indptr) - 1, device=self.columns.device)
        return rows.repeat_interleave(self.indptr.diff(), output_size=len(self.columns))


@dataclass(frozen=True)
class Anchors:
    """Positive pairs that are held against the rest of the batch.

    Args:
        queries: (rows,) int64, each pair's query as a row of the query embeddings.
        products: (rows,) int64, each pair's product as a row of the product embeddings.
        not_negative_products: rows of the product embeddings; every pair's own product is among them.
        not_negative_queries: rows of the query embeddings; every pair's own query is among them.
    """

    queries: torch.Tensor
    products: torch.Tensor
    not_negative_products: Exclusions
    not_negative_queries: Exclusions

    def __len__(self) -> int:
        return len(self.queries)

    def block(self, start: int, stop: int) -> Anchors:
        """Return pairs `start` to `stop`, the latter left out, so that scores can be computed in parts."""
        return Anchors(
            queries=self.queries[start:stop],
            products=self.products[start:stop],
            not_negative_products=self.not_negative_products.block(start, stop),
            not_negative_queries=self.not_negative_queries.block(start, stop),
        )


def rows_of(embeddings: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return some rows of embeddings, (rows, dim), whose gradient is the same to the bit every time.

    The gradient of plain indexing adds up a row that is taken several times in the order in which threads
    come by.
    """
    return torch.nn.functional.embedding(rows, embeddings)


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
    anchors: Anchors,
    *,
    temperature: float | torch.Tensor,
    directions: Collection[Direction],
) -> torch.Tensor:
    """Return the scaled-cosine cross-entropy of each positive pair against the rest of the batch.

    With s = cos / temperature, a pair (q, p) and its negatives n:

        forward  = -log( exp(s(q, p)) / (exp(s(q, p)) + sum of exp(s(q, n))) )
        backward = -log( exp(s(q, p)) / (exp(s(q, p)) + sum of exp(s(p, n))) )

    The forward term's negatives are products (`query_to_product`) and queries (`query_to_query`), the
    backward term's queries (`product_to_query`) and products (`product_to_product`). The loss is the forward
    term, or the mean of both where the directions ask for a backward one. `query_to_product` alone is InfoNCE
    (https://arxiv.org/abs/1807.03748) or multiple negatives ranking (https://arxiv.org/abs/1705.00652); all
    four are the negatives of GTE (https://arxiv.org/abs/2308.03281, eq. 2), in two denominators, not one.

    A pair's loss does not depend on the other anchors, so blocks of them give the same losses as all at once.

    Args:
        query_embeddings: (queries, dim), unit L2 norm, each distinct query of the batch once.
        product_embeddings: (products, dim), unit L2 norm, each distinct product of the batch once; those
            that are nobody's positive are negatives of all.
        anchors: the positive pairs, and what is no negative of them.
        temperature: cosines are divided by it.
        directions: who is held against whom.

    Returns:
        (rows,) losses, one per anchor; exactly 0 for an anchor without negatives.

    Raises:
        ValueError: `query_to_product` is not among the directions.
    """
    if "query_to_product" not in directions:
        raise ValueError(
            f"directions must hold 'query_to_product', found {sorted(directions)}: add it, as a search "
            "scores products for a query"
        )
    queries = rows_of(query_embeddings, anchors.queries)
    products = rows_of(product_embeddings, anchors.products)
    own_scores = _scores(queries, products, temperature)
    to_products = (product_embeddings, anchors.not_negative_products)
    to_queries = (query_embeddings, anchors.not_negative_queries)

    opponents = [to_products, to_queries] if "query_to_query" in directions else [to_products]
    forward = _cross_entropy(own_scores, queries / temperature, opponents)
    opponents = [to_queries] if "product_to_query" in directions else []
    opponents += [to_products] if "product_to_product" in directions else []
    if not opponents:
        return forward
    return (forward + _cross_entropy(own_scores, products / temperature, opponents)) / 2


def cosent(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    relevance: torch.Tensor,
    *,
    temperature: float | torch.Tensor,
) -> torch.Tensor:
    """Return log(1 + sum of exp((cos_i - cos_j) / temperature) over all i, j with y_i < y_j), for each pair.

    It ranks pairs: whatever is more relevant, to whichever query, should have the higher cosine, which is
    what ROC-AUC measures. Graded relevance is used in full. Source: CoSENT,
    https://kexue.fm/archives/8847, equation 6 there.

    In order of relevance the sum over i is a running one, which every j reads where the levels below its own
    end: O(pairs log pairs) time and O(pairs) memory for the exact sum over all i, j.

    Args:
        query_embeddings: (pairs, dim), unit L2 norm.
        product_embeddings: (pairs, dim), unit L2 norm.
        relevance: (pairs,) in [0, 1].
        temperature: cosines are divided by it.

    Returns:
        (pairs,) the batch's one loss, at every pair; 0 where all pairs are equally relevant.
    """
    levels, order = relevance.sort()
    scores = _scores(query_embeddings, product_embeddings, temperature)[order]
    lower_pairs = torch.searchsorted(levels, levels)
    # Pairs of the lowest level have nothing below them; a -inf in their place would make gradients NaN.
    higher = lower_pairs > 0
    below = scores.logcumsumexp(dim=0)[lower_pairs[higher] - 1]
    loss = torch.cat([scores.new_zeros(1), below - scores[higher]]).logsumexp(dim=0)
    return loss.expand(len(scores))


def listwise(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    relevance: torch.Tensor,
    query_keys: torch.Tensor,
    *,
    temperature: float | torch.Tensor,
) -> torch.Tensor:
    """Return each pair's part of the softmax cross-entropy over the judged products of its query.

    Of a query's pairs j in the batch, with targets t_j = y_j / sum of y: the part of j is

        -t_j log( exp(cos_j / temperature) / sum over the query's pairs k of exp(cos_k / temperature) )

    and the loss of the query is the sum of its parts. Source: ListNet, top-one probabilities,
    https://doi.org/10.1145/1273496.1273513, with targets in proportion to relevance.

    Args:
        query_embeddings: (pairs, dim), unit L2 norm.
        product_embeddings: (pairs, dim), unit L2 norm.
        relevance: (pairs,) in [0, 1].
        query_keys: (pairs,) int64, equal for the pairs of a query, in any order.
        temperature: cosines are divided by it.

    Returns:
        (pairs,) losses, to be divided by `listwise_weight`; 0 for a query without relevance above 0.
    """
    scores = _scores(query_embeddings, product_embeddings, temperature)
    keys, query = torch.unique(query_keys, return_inverse=True)
    per_query = scores.new_zeros(len(keys))
    # The peak shifts the exponents and cancels out, so that its gradient is none.
    peak = per_query.scatter_reduce(0, query, scores.detach(), "amax", include_self=False)
    shifted = scores - peak[query]
    log_softmax = shifted - per_query.index_add(0, query, shifted.exp()).log()[query]
    relevance = relevance.to(scores.dtype)
    total = per_query.index_add(0, query, relevance)
    targets = relevance / total.where(total > 0, 1)[query]
    return -targets * log_softmax


def listwise_weight(relevance: np.ndarray, query_keys: np.ndarray) -> int:
    """Return the number of queries with some relevance above 0: those that `listwise` gives a loss.

    Args:
        relevance: (pairs,) in [0, 1].
        query_keys: (pairs,) equal for the pairs of a query.
    """
    return len(np.unique(query_keys[relevance > 0]))


def _scores(
    query_embeddings: torch.Tensor, product_embeddings: torch.Tensor, temperature: float | torch.Tensor
) -> torch.Tensor:
    """Return cos / temperature of each pair, (pairs,)."""
    return (query_embeddings * product_embeddings).sum(dim=1) / temperature


def _cross_entropy(
    own_scores: torch.Tensor,
    scaled_anchors: torch.Tensor,
    opponents: list[tuple[torch.Tensor, Exclusions]],
) -> torch.Tensor:
    """Return log(1 + sum of exp(score - own score) over the negatives) for each anchor.

    Args:
        own_scores: (rows,) of each anchor with its positive.
        scaled_anchors: (rows, dim), divided by the temperature.
        opponents: embeddings (columns, dim) and which of them are no negatives of a row.
    """
    candidates = torch.cat([embeddings for embeddings, _ in opponents])
    scores = scaled_anchors @ candidates.T
    # A finite floor: logsumexp over a row of -inf alone has NaN for a gradient.
    floor, offset = torch.finfo(scores.dtype).min, 0
    for embeddings, exclusions in opponents:
        scores[exclusions.rows(), exclusions.columns + offset] = floor
        offset += len(embeddings)
    margins = scores.logsumexp(dim=1) - own_scores
    return torch.logaddexp(torch.zeros_like(margins), margins)
