"""The loss `listwise`: a softmax over the judged products of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.losses.embedding_rows import pair_cosines
from aisle.losses.label_checks import equal_relevance
from aisle.losses.parameters import Parameters, Temperature
from aisle.losses.specification import BatchContents, Comparison, Loss

if TYPE_CHECKING:
    import numpy as np
    import torch


def listwise(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    relevance: torch.Tensor,
    query_keys: torch.Tensor,
    *,
    temperature: float | torch.Tensor,
) -> torch.Tensor:
    """Return each pair's term of the softmax cross-entropy over the judged products of its query.

    For a query's pairs j in the batch, with targets t_j = y_j / sum of y, the term of j is

        -t_j log( exp(cos_j / temperature) / sum over the query's pairs k of exp(cos_k / temperature) )

    and the loss of the query is the sum of its terms. The probabilities are the source's top-one
    probabilities; the targets are proportional to relevance.

    Args:
        query_embeddings: (pairs, dim), unit L2 norm.
        product_embeddings: (pairs, dim), unit L2 norm.
        relevance: (pairs,) in [0, 1].
        query_keys: (pairs,) int64 below the number of pairs, equal for the pairs of a query.
        temperature: Number by which cosines are divided.

    Returns:
        (pairs,) losses, to be divided by the number of queries with a relevance above 0. The other queries
        have losses of 0.
    """
    scores = pair_cosines(query_embeddings, product_embeddings) / temperature
    return listwise_of_scores(scores, relevance, query_keys)


def listwise_of_scores(
    scores: torch.Tensor, relevance: torch.Tensor, query_keys: torch.Tensor
) -> torch.Tensor:
    """Return each pair's term of the softmax cross-entropy over the judged products of its query.

    It is that of `listwise`, with any score s_j in place of cos_j / temperature.

    Args:
        scores: (pairs,) scores.
        relevance: (pairs,) in [0, 1].
        query_keys: (pairs,) int64 below the number of pairs, equal for the pairs of a query.

    Returns:
        (pairs,) losses, to be divided by the number of queries with a relevance above 0. The other queries
        have losses of 0.
    """
    import torch

    per_query = torch.zeros_like(scores)  # for as many queries as there may be
    # The peak is subtracted from all exponents and cancels out, so it needs no gradient.
    peak = per_query.scatter_reduce(0, query_keys, scores.detach(), "amax", include_self=False)
    shifted = scores - peak[query_keys]
    log_softmax = shifted - per_query.index_add(0, query_keys, shifted.exp()).log()[query_keys]
    relevance = relevance.to(scores.dtype)
    total = per_query.index_add(0, query_keys, relevance)
    targets = relevance / total.where(total > 0, 1)[query_keys]
    return -targets * log_softmax


def in_lists(batch: BatchContents, _: Parameters) -> np.ndarray:
    """Return for each pair whether its query has at least two pairs and a relevant pair, (pairs,) bool."""
    import numpy as np

    assert batch.relevance is not None  # the loss needs labels
    keys, query, sizes = np.unique(batch.query_keys, return_inverse=True, return_counts=True)
    some = np.bincount(query, weights=batch.relevance > 0, minlength=len(keys)) > 0
    found: np.ndarray = ((sizes > 1) & some)[query]
    return found


LOSS = Loss(
    name="listwise",
    function=listwise,
    help="ranks the judged products of each query",
    source="ListNet, https://doi.org/10.1145/1273496.1273513",
    other_names=("ListNet",),
    inputs=("relevance", "query_keys"),
    over_batch=True,
    unit="query",
    parameters=Temperature,
    keeps_queries_together=True,
    refuse=equal_relevance,
    comparison=Comparison(
        find=in_lists,
        nothing="no query has two judged products, one of them relevant, in a batch of {batch} pairs",
        remedy="Give a higher --per_device_train_batch_size; with one product a query, another --loss",
    ),
)
