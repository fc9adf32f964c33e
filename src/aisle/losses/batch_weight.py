"""Weight of a batch: the number by which the sum of its losses is divided."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from aisle.losses.specification import Unit


def batch_weight(unit: Unit, *, relevance: np.ndarray | None, query_keys: np.ndarray) -> int:
    """Return the number of pairs, of positives, or of queries with a relevance above 0.

    The weight of a loss that contrasts texts is the number of its anchors or triples, which `Contrast` has.

    Args:
        unit: Unit of the mean over a step.
        relevance: (pairs,) in [0, 1]; None if every pair is a positive.
        query_keys: (pairs,) a number per distinct query; pairs with the same query have the same number.
    """
    import numpy as np

    if unit == "positive" and relevance is not None:
        return int((relevance > 0.5).sum())
    if unit == "query":
        return len(np.unique(query_keys if relevance is None else query_keys[relevance > 0]))
    return len(query_keys)
