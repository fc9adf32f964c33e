"""Mine hard negatives: the best ranked products of each query that nothing marks as right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from aisle.index.scoring import Rows, Scores
from aisle.mining.known_products import REASONS, KnownProducts, Reason, text_key
from aisle.mining.mined_catalog import MinedCatalog

__all__ = ["Mined", "MinedNegative", "bm25_ranking", "mine_negatives"]

Ranking = Callable[[str], tuple[Rows, Scores]]
"""Function of a query's text that returns rows of the catalogue and their scores, best first."""
LOOKED_AT = 16
"""Products whose texts are read at a time."""


@dataclass(frozen=True)
class MinedNegative:
    """Hard negative of a query.

    Attributes:
        row: Row of the catalogue.
        product_id: Id of the product.
        text: Text of the product.
        score: Score of the ranking.
    """

    row: int
    product_id: str
    text: str
    score: float


@dataclass
class Mined:
    """Hard negatives of all queries, and the products that were excluded.

    Attributes:
        per_query: Most negatives of a query.
        negatives: Query to its negatives, best ranked first; empty if there are none.
        excluded: Number of products that ranked above the last negative of their query, by reason.
    """

    per_query: int
    negatives: dict[str, list[MinedNegative]] = field(default_factory=dict)
    excluded: Counter[Reason] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Number of negatives of all queries."""
        return sum(map(len, self.negatives.values()))

    @property
    def without(self) -> int:
        """Number of queries without a negative."""
        return sum(not found for found in self.negatives.values())

    @property
    def short(self) -> int:
        """Number of queries with some negatives, but fewer than asked for."""
        return sum(0 < len(found) < self.per_query for found in self.negatives.values())

    def by_reason(self) -> Mapping[Reason, int]:
        """Return the number of excluded products for each reason, 0 included."""
        return {reason: self.excluded[reason] for reason in REASONS}


def bm25_ranking(catalog: MinedCatalog, *, depth: int) -> Ranking:
    """Return a ranking by BM25.

    Args:
        catalog: Products to rank.
        depth: Products per query, at least 1; fewer if fewer have a word of the query.
    """

    def rank(query: str) -> tuple[Rows, Scores]:
        rows, scores = catalog.lexical.rank([query], top_k=depth, tie_ranks=catalog.tie_ranks)
        return rows[0], scores[0]

    return rank


def mine_negatives(
    queries: Iterable[str],
    *,
    catalog: MinedCatalog,
    known: KnownProducts,
    ranking: Ranking,
    per_query: int,
    on_progress: Callable[[int], None],
) -> Mined:
    """Return the hard negatives of queries: the first products of a ranking that nothing excludes.

    Args:
        queries: Distinct texts of queries, all among those of `known`.
        catalog: Products that the ranking ranks.
        known: Products that are right for the queries.
        ranking: Ranking of the catalogue for a query.
        per_query: Most negatives of a query, at least 1.
        on_progress: Called with the number of further queries that are done.
    """
    mined = Mined(per_query)
    for query in queries:
        mined.negatives[query] = _negatives(query, catalog, known, ranking(query), mined)
        on_progress(1)
    return mined


def _negatives(
    query: str, catalog: MinedCatalog, known: KnownProducts, ranked: tuple[Rows, Scores], mined: Mined
) -> list[MinedNegative]:
    found: list[MinedNegative] = []
    chosen: set[str] = set()
    rows, scores = ranked
    for start in range(0, len(rows), LOOKED_AT):
        part = slice(start, start + LOOKED_AT)
        products = catalog.at(np.asarray(rows[part]))
        for row, score, product in zip(rows[part].tolist(), scores[part].tolist(), products, strict=True):
            key = text_key(product.text)
            reason = known.reason(query, product.product_id, product.text)
            if reason is None and key in chosen:
                reason = "duplicate"
            if reason is not None:
                mined.excluded[reason] += 1
                continue
            chosen.add(key)
            found.append(MinedNegative(row, product.product_id, product.text, score))
            if len(found) == mined.per_query:
                return found
    return found
