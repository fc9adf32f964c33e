"""Figures on mined negatives: how hard they are, and how many a held-out judgement calls relevant."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from aisle.data.pairs import Pairs, query_key
from aisle.mining.known_products import KnownProducts
from aisle.mining.mined import Mined

__all__ = ["FalseNegatives", "Hardness", "false_negatives", "hardness"]

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Hardness:
    """Scores of negatives compared with those of their positives.

    Attributes:
        negatives: Number of negatives with a positive in the catalogue.
        quantiles: Quantile to that of the negative's score less the positive's.
        above: Number of negatives that score higher than their positive.
    """

    negatives: int
    quantiles: dict[float, float]
    above: int


@dataclass(frozen=True)
class FalseNegatives:
    """Mined negatives with a held-out judgement.

    Attributes:
        negatives: Number of negatives of queries that have held-out judgements.
        judged: Number of those that are judged.
        relevant: Number of those that are judged relevant: false negatives.
    """

    negatives: int
    judged: int
    relevant: int

    @property
    def share(self) -> float | None:
        """Share of the judged negatives that are relevant, in [0, 1]; None if none is judged."""
        return self.relevant / self.judged if self.judged else None

    @property
    def least(self) -> float | None:
        """Share of all negatives of these queries that are judged relevant; None without negatives."""
        return self.relevant / self.negatives if self.negatives else None


def hardness(mined: Mined) -> Hardness | None:
    """Return how hard the negatives are; None if no negative has a positive in the catalogue."""
    gaps = np.array(
        [
            one.score - one.positive_score
            for found in mined.negatives.values()
            for one in found
            if one.positive_score is not None
        ]
    )
    if not len(gaps):
        return None
    found = np.quantile(gaps, QUANTILES).tolist()
    return Hardness(len(gaps), dict(zip(QUANTILES, found, strict=True)), int((gaps > 0).sum()))


def false_negatives(mined: Mined, pairs: Pairs, known: KnownProducts) -> FalseNegatives:
    """Return how many negatives are judged relevant by pairs that mining did not read.

    A negative of several pairs of a query counts once.

    Args:
        mined: Mined negatives.
        pairs: Held-out pairs.
        known: Judged products of these pairs.
    """
    spelling = {query_key(query): query for query in pairs.queries}
    by_query: dict[str, dict[str, str]] = defaultdict(dict)
    for anchor, found in mined.negatives.items():
        query = spelling.get(query_key(anchor.query))
        if query is not None:
            by_query[query].update((one.product_id, one.text) for one in found)
    levels = [
        known.level(query, product_id, text)
        for query, products in by_query.items()
        for product_id, text in products.items()
    ]
    judged = [level for level in levels if level is not None]
    return FalseNegatives(len(levels), len(judged), sum(level > 0 for level in judged))
