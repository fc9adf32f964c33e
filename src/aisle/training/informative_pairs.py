"""How many pairs of an epoch a loss can learn from: a batch may hold nothing to compare a pair with."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain, islice

import numpy as np

from aisle.data.negatives import KnownPositives
from aisle.losses.objectives import Direction
from aisle.training.batches import BatchPlan, contrasted_texts
from aisle.training.objective import Loss
from aisle.training.tokenized import TokenizedPairs

BATCHES = 100
"""Batches of the first epoch that are looked at."""


def informative_share(
    loss: Loss,
    pairs: TokenizedPairs,
    plan: BatchPlan,
    *,
    known: KnownPositives | None,
    directions: Collection[Direction],
) -> float:
    """Return the share of pairs, in [0, 1], whose loss has a gradient, in the first batches of a run.

    A pair of `cosine_target` always has; one of `cosent` needs pairs of another relevance in its batch, one
    of `listwise` another pair of its query and a relevance above 0 there, and a positive of `in_batch` a text
    that is not known to be right. Of `in_batch` the positives alone are counted.

    Args:
        loss: the run's.
        pairs: the training pairs.
        plan: which pairs meet in which batch.
        known: the positives of all pairs, for the in-batch loss.
        directions: of the in-batch loss.
    """
    counted = learning = 0
    for rows in islice(chain.from_iterable(plan.steps(0)), BATCHES):
        if loss == "in_batch":
            assert known is not None  # made for this loss
            found = _with_negatives(pairs, known, rows, directions)
        elif loss == "listwise":
            found = _in_lists(pairs.query_keys[pairs.queries[rows]], pairs.relevance[rows])
        elif loss == "cosent":
            found = np.full(len(rows), len(np.unique(pairs.relevance[rows])) > 1)
        else:
            return 1.0
        counted += len(found)
        learning += int(found.sum())
    return learning / counted if counted else 0.0


def _with_negatives(
    pairs: TokenizedPairs, known: KnownPositives, rows: np.ndarray, directions: Collection[Direction]
) -> np.ndarray:
    """Return which positives have a negative, (positives,) bool."""
    texts = contrasted_texts(pairs, known, rows)
    found: np.ndarray = np.diff(texts.excluded.products.indptr) < len(texts.products)
    if {"query_to_query", "product_to_query"} & set(directions):
        found |= np.diff(texts.excluded.queries.indptr) < len(texts.queries)
    return found


def _in_lists(query_keys: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Return which pairs are in a list of two or more that has some relevance, (pairs,) bool."""
    _, query, sizes = np.unique(query_keys, return_inverse=True, return_counts=True)
    some = np.bincount(query, weights=relevance > 0) > 0
    found: np.ndarray = ((sizes > 1) & some)[query]
    return found
