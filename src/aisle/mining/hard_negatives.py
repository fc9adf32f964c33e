"""Mine hard negatives: the best ranked products of each query that no rule excludes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np

from aisle.mining.choose_negatives import Choice, Teacher, TeacherTexts, choose
from aisle.mining.exclusions import AnchorRules, Candidate, Exclusions
from aisle.mining.known_products import ANY_RELEVANCE, UNJUDGED
from aisle.mining.mined import Mined, MinedNegative
from aisle.mining.mined_catalog import MinedCatalog, ProductRows, RelevantRows
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
                candidates = _Candidates(query, ranked, catalog, rows, exclusions)
                choices += [Choice(one, candidates.passing(one, mined)) for one in by_query[query]]
            texts = None if teacher is None else TeacherTexts(teacher, catalog)
            choose(choices, texts, mined)
            mined.negatives.update((choice.anchor, choice.found) for choice in choices)
            on_progress(len(part))
    return mined


def _positive_rows(anchors: Sequence[Anchor]) -> np.ndarray:
    named = {anchor.positives for anchor in anchors}  # graded anchors of a query have the same
    return np.array(sorted({row for positives in named for row in positives}), np.int64)


@dataclass(frozen=True)
class _Candidates:
    """The ranked products of a query, read a few at a time, once for all anchors with all that rules need."""

    query: str
    ranked: Ranked
    catalog: MinedCatalog
    rows: ProductRows
    exclusions: Exclusions
    read: list[Candidate] = field(default_factory=list)

    def passing(self, anchor: Anchor, mined: Mined) -> Iterator[MinedNegative]:
        """Yield the products that the rules leave for an anchor, and count those that are excluded."""
        chosen: set[str] = set()
        positive = min((self.ranked.positive_scores[row] for row in anchor.positives), default=None)
        margin = self.exclusions.margin
        limit = None if positive is None or margin is None else margin.limit(positive)
        rules = AnchorRules(self.exclusions, anchor, self._groups, limit)
        for candidate in self._in_order():
            key = text_key(candidate.product.text)
            reason = rules.reason(candidate)
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

    @cached_property
    def _relevant(self) -> RelevantRows:
        """The query's relevant products, if a rule needs them."""
        if self.exclusions.near is None and not self._group_names:
            return RelevantRows.of({})
        return self.rows.relevant(*self.exclusions.known.levels(self.query), lowest=ANY_RELEVANCE)

    @cached_property
    def _groups(self) -> Mapping[str, float]:
        """Groups of the query's relevant products, with their highest relevance."""
        number = self.exclusions.known.query_number[self.query]
        payload = self.catalog.payload(self._relevant.rows, self._group_names)
        return self.exclusions.groups.of_relevant(number, payload, self._relevant.levels.tolist())

    def _in_order(self) -> Iterator[Candidate]:
        for start in range(0, len(self.ranked.rows), LOOKED_AT):
            part = slice(start, start + LOOKED_AT)
            if len(self.read) <= start:
                self.read.extend(self._read(part))
            yield from self.read[part]

    def _read(self, part: slice) -> Iterator[Candidate]:
        rows, scores = self.ranked.rows[part], self.ranked.scores[part].tolist()
        payload = self.catalog.payload(rows, self._group_names)
        near = self.exclusions.near
        levels = [UNJUDGED] * len(rows) if near is None else near.levels(rows, self._relevant).tolist()
        for one in zip(rows.tolist(), self.catalog.at(rows), scores, payload, levels, strict=True):
            yield Candidate(*one)
