"""Mine hard negatives: the best ranked products of each query that no rule excludes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from aisle.mining.choose_negatives import Choice, Teacher, TeacherTexts, choose
from aisle.mining.exclusions import AnchorRules, Candidate, Exclusions
from aisle.mining.mined import Mined, MinedNegative
from aisle.mining.mined_catalog import MinedCatalog, ProductRows
from aisle.mining.mining_anchors import Anchor
from aisle.mining.ranked_products import Ranked, Ranking
from aisle.mining.text_keys import text_key

__all__ = ["mine_negatives"]

LOOKED_AT = 16
"""Products whose texts are read at a time."""
RANKED_AT_A_TIME = 4096
"""Queries to rank at a time; an exact search reads all embeddings for them."""
CHOSEN_AT_A_TIME = 64
"""Queries whose candidates a teacher scores together."""


def mine_negatives(
    anchors: Collection[Anchor],
    *,
    catalog: MinedCatalog,
    rows: ProductRows,
    exclusions: Exclusions,
    ranking: Ranking,
    per_query: int,
    on_progress: Callable[[int], None],
    teacher: Teacher | None = None,
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
        teacher: Scores pairs of a query and a text; products that it scores at least as high as the positive
            are excluded. None for no teacher.
    """
    mined = Mined(per_query)
    by_query: dict[str, list[Anchor]] = {}
    for anchor in anchors:
        by_query.setdefault(anchor.query, []).append(anchor)
    names = list(by_query)
    for start in range(0, len(names), RANKED_AT_A_TIME):
        queries = names[start : start + RANKED_AT_A_TIME]
        positives = [_positive_rows(by_query[query]) for query in queries]
        ranking_of = zip(queries, ranking.rank(queries, positives), strict=True)
        while part := list(islice(ranking_of, CHOSEN_AT_A_TIME)):
            choices = []
            for query, ranked in part:
                candidates = _Candidates(ranked, catalog, rows, exclusions)
                choices += [Choice(one, candidates.passing(one, mined)) for one in by_query[query]]
            texts = None if teacher is None else TeacherTexts(teacher, catalog)
            choose(choices, texts, mined)
            mined.negatives.update((choice.anchor, choice.found) for choice in choices)
            on_progress(len(part))
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

    def passing(self, anchor: Anchor, mined: Mined) -> Iterator[MinedNegative]:
        """Yield the products that the rules leave for an anchor, and count those that are excluded."""
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
            yield MinedNegative(candidate.row, product.product_id, product.text, candidate.score, positive)

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
