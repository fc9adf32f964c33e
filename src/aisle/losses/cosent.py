"""The loss `cosent`: more relevant pairs should have higher cosines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aisle.losses.embedding_rows import pair_cosines
from aisle.losses.label_checks import equal_relevance
from aisle.losses.parameters import Temperature
from aisle.losses.specification import BatchContents, Comparison, Loss

if TYPE_CHECKING:
    import numpy as np
    import torch


def cosent(
    query_embeddings: torch.Tensor,
    product_embeddings: torch.Tensor,
    relevance: torch.Tensor,
    *,
    temperature: float | torch.Tensor,
) -> torch.Tensor:
    """Return log(1 + sum of exp((cos_i - cos_j) / temperature) over all i, j with y_i < y_j), for each pair.

    The loss ranks pairs: of two pairs, with the same or different queries, the more relevant pair should have
    the higher cosine. ROC-AUC measures the same. All relevance levels count. The formula is equation 6 of the
    source.

    If pairs are sorted by relevance, the sum over i is a running sum. Each j takes its value at the last pair
    with a lower relevance. This gives the exact sum over all i, j in O(pairs log pairs) time and O(pairs)
    memory.

    Args:
        query_embeddings: (pairs, dim), unit L2 norm.
        product_embeddings: (pairs, dim), unit L2 norm.
        relevance: (pairs,) in [0, 1].
        temperature: Number by which cosines are divided.

    Returns:
        (pairs,) the loss of the batch, repeated for each pair; 0 if all pairs are equally relevant.
    """
    import torch

    levels, order = relevance.sort()
    scores = (pair_cosines(query_embeddings, product_embeddings) / temperature)[order]
    lower_pairs = torch.searchsorted(levels, levels)
    below = scores.logcumsumexp(dim=0)[(lower_pairs - 1).clamp(min=0)]
    # Pairs of the lowest level have no pair below them. Filled in after the difference, -inf has no gradient;
    # a selection of the others would make the host wait for the GPU, to read how many there are.
    terms = (below - scores).masked_fill(lower_pairs == 0, -math.inf)
    loss = torch.cat([scores.new_zeros(1), terms]).logsumexp(dim=0)
    return loss.expand(len(scores))


def _of_different_relevance(batch: BatchContents, _: Temperature) -> np.ndarray:
    """Return for each pair whether its batch has different relevance levels, (pairs,) bool."""
    import numpy as np

    assert batch.relevance is not None  # the loss needs labels
    return np.full(len(batch.relevance), len(np.unique(batch.relevance)) > 1)


LOSS = Loss(
    name="cosent",
    function=cosent,
    help="ranks relevant pairs above others",
    source="CoSENT, https://kexue.fm/archives/8847",
    other_names=("CoSENTLoss",),
    inputs=("relevance",),
    over_batch=True,
    parameters=Temperature,
    refuse=equal_relevance,
    comparison=Comparison(
        find=_of_different_relevance,
        nothing="no batch of {batch} pairs has pairs of different relevance",
        remedy="Give a higher --per_device_train_batch_size, or leave out --group_by_query",
    ),
)
