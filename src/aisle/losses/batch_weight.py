"""Weight of a batch: the number by which the sum of its losses is divided."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from aisle.losses.specification import Unit


def batch_weight(
    unit: Unit, *, relevance: np.ndarray | None, query_keys: np.ndarray, triples: int = 0
) -> int:
    """Return the number of pairs, of positives, of triples, or of queries with a relevance above 0.

    Args:
        unit: Unit of the mean over a step.
        relevance: (pairs,) in [0, 1]; None if every pair is a positive.
        query_keys: (pairs,) a number per distinct query; pairs with the same query have the same number.
        triples: Number of triples, for a loss that takes triples.
    """
    import numpy as np

    if unit == "positive" and relevance is not None:
        return int((relevance > 0.5).sum())
    if unit == "triple":
        return triples
    if unit == "query":
        return len(np.unique(query_keys if relevance is None else query_keys[relevance > 0]))
    return len(query_keys)
