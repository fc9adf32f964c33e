"""Mine hard negatives: the best ranked products of each query that no rule excludes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aisle.mining.exclusions import AnchorRules, Candidate, Exclusions
from aisle.mining.mined_catalog import MinedCatalog, ProductRows
from aisle.mining.mining_anchors import Anchor
from aisle.mining.ranked_products import Ranked, Ranking
from aisle.mining.reasons import REASONS, Reason
from aisle.mining.text_keys import text_key

__all__ = ["Mined", "MinedNegative", "mine_negatives"]

LOOKED_AT = 16
"""Products whose texts are read at a time."""
RANKED_AT_A_TIME = 4096
"""Queries to rank at a time; an exact search reads all embeddings for them."""


@dataclass(frozen=True)
class MinedNegative:
    """Hard negative of an anchor.

    Attributes:
        row: Row of the catalogue.
        product_id: Id of the product.
        text: Text of the product.
        score: Score of the ranking.
        positive_score: Lowest score of the anchor's positives; None if the catalogue has none of them.
    """

    row: int
    product_id: str
    text: str
    score: float
    positive_score: float | None = None


@dataclass
class Mined:
    """Hard negatives of all anchors, and the products that were excluded.

    Attributes:
        per_query: Most negatives of an anchor.
        negatives: Anchor to its negatives, best ranked first; empty if there are none.
        excluded: Number of products that ranked above the last negative of their anchor, by reason.
    """

    per_query: int
    negatives: dict[Anchor, list[MinedNegative]] = field(default_factory=dict)
    excluded: Counter[Reason] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Number of negatives of all anchors."""
        return sum(map(len, self.negatives.values()))

    @property
    def without(self) -> int:
        """Number of anchors without a negative."""
        return sum(not found for found in self.negatives.values())

    @property
    def short(self) -> int:
        """Number of anchors with some negatives, but fewer than asked for."""
        return sum(0 < len(found) < self.per_query for found in self.negatives.values())

    @property
    def without_margin(self) -> int:
        """Number of anchors without a positive in the catalogue, from which a margin could be measured."""
        return sum(not anchor.positives for anchor in self.negatives)

    def by_reason(self) -> Mapping[Reason, int]:
        """Return the number of excluded products for each reason, 0 included."""
        return {reason: self.excluded[reason] for reason in REASONS}


def mine_negatives(
    anchors: Collection[Anchor],
    *,
    catalog: MinedCatalog,
    rows: ProductRows,
    exclusions: Exclusions,
    ranking: Ranking,
    per_query: int,
    on_progress: Callable[[int], None],
) -> Mined:
    """Return the hard negatives of anchors: the first products of a ranking that no rule excludes.

    Args:
        anchors: Distinct anchors.
        catalog: Products that the ranking ranks.
        rows: Rows of the products that the training data name.
        exclusions: Rules.
        ranking: Ranking of the catalogue for queries.
        per_query: Most negatives of an anchor, at least 1.
        on_progress: Called with the number of further queries that are done.
    """
    mined = Mined(per_query)
    by_query: dict[str, list[Anchor]] = {}
    for anchor in anchors:
        by_query.setdefault(anchor.query, []).append(anchor)
    names = list(by_query)
    for start in range(0, len(names), RANKED_AT_A_TIME):
        queries = names[start : start + RANKED_AT_A_TIME]
        positives = [_positive_rows(by_query[query]) for query in queries]
        for query, ranked in zip(queries, ranking.rank(queries, positives), strict=True):
            candidates = _Candidates(ranked, catalog, rows, exclusions)
            for anchor in by_query[query]:
                mined.negatives[anchor] = candidates.negatives(anchor, mined)
            on_progress(1)
    return mined


def _positive_rows(anchors: Sequence[Anchor]) -> np.ndarray:
    return np.array(sorted({row for anchor in anchors for row in anchor.positives}), np.int64)


@dataclass(frozen=True)
class _Candidates:
    """The ranked products of a query; their texts are read a few at a time, once for all anchors."""

    ranked: Ranked
    catalog: MinedCatalog
    rows: ProductRows
    exclusions: Exclusions
    read: list[Candidate] = field(default_factory=list)

    def negatives(self, anchor: Anchor, mined: Mined) -> list[MinedNegative]:
        """Return the negatives of an anchor, and count what is excluded."""
        found: list[MinedNegative] = []
        chosen: set[str] = set()
        positive = min((self.ranked.positive_scores[row] for row in anchor.positives), default=None)
        relevant = self._relevant(anchor)
        rules = self._rules(anchor, positive, relevant)
        for candidate, near in self._with_near(relevant):
            key = text_key(candidate.product.text)
            reason = rules.reason(candidate, near=near)
            if reason is None and key in chosen:
                reason = "duplicate"
            if reason is not None:
                mined.excluded[reason] += 1
                continue
            chosen.add(key)
            product = candidate.product
            found.append(
                MinedNegative(candidate.row, product.product_id, product.text, candidate.score, positive)
            )
            if len(found) == mined.per_query:
                break
        return found

    @property
    def _group_names(self) -> list[str]:
        return self.exclusions.groups.columns.names()

    def _relevant(self, anchor: Anchor) -> np.ndarray:
        """Return the rows of the products that are relevant for the anchor, if a rule needs them."""
        if self.exclusions.near is None and not self._group_names:
            return np.empty(0, np.int64)
        named = self.exclusions.known.positives(anchor.query, lowest=anchor.lowest)
        return np.array(self.rows.find_all(*named), np.int64)

    def _rules(self, anchor: Anchor, positive: float | None, relevant: np.ndarray) -> AnchorRules:
        known, margin = self.exclusions.known, self.exclusions.margin
        groups = self.exclusions.groups.of_relevant(
            known.query_number[anchor.query],
            self.catalog.payload(relevant, self._group_names),
            lowest=anchor.lowest,
        )
        limit = None if positive is None or margin is None else margin.limit(positive)
        return AnchorRules(self.exclusions, anchor, groups, limit)

    def _with_near(self, relevant: np.ndarray) -> Iterator[tuple[Candidate, bool]]:
        """Yield the candidates in order, and whether each is nearly the embedding of a relevant product."""
        near = self.exclusions.near
        for start in range(0, len(self.ranked.rows), LOOKED_AT):
            part = self._part(start)
            marks = [False] * len(part)
            if near is not None:
                rows = np.array([candidate.row for candidate in part], np.int64)
                marks = near.among(rows, relevant).tolist()
            yield from zip(part, marks, strict=True)

    def _part(self, start: int) -> list[Candidate]:
        part = slice(start, start + LOOKED_AT)
        if len(self.read) <= start:
            rows, scores = self.ranked.rows[part], self.ranked.scores[part].tolist()
            payload = self.catalog.payload(rows, self._group_names)
            found = zip(rows.tolist(), self.catalog.at(rows), scores, payload, strict=True)
            self.read.extend(Candidate(*one) for one in found)
        return self.read[part]
