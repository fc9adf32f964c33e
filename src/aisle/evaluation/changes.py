"""Show where a gain comes from: the queries that changed most, and slices of the queries."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from aisle.errors import EvaluationError
from aisle.evaluation.document import Answer, Estimate, QueryChange, Slice
from aisle.evaluation.retrieval_metrics import RetrievalMetrics
from aisle.evaluation.significance import estimated_mean, paired_differences

__all__ = [
    "FEWEST_QUERIES",
    "changed_queries",
    "query_length_groups",
    "ranks_of",
    "slices",
    "word_frequency_groups",
]

Rankings = Mapping[str, Sequence[tuple[str, float]]]
"""Ranking of each query, {query id: (product id, score), best first}."""

FEWEST_QUERIES = 10
"""Fewest queries of a slice with an interval."""
_MOST_RANKS = 100
_WORD = re.compile(r"\w+")


def changed_queries(
    base: RetrievalMetrics,
    tuned: RetrievalMetrics,
    *,
    metric: str,
    queries: Mapping[str, str],
    before: Rankings,
    after: Rankings,
    titles: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, float]],
    shown: int = 10,
    depth: int | None = None,
) -> tuple[tuple[QueryChange, ...], tuple[QueryChange, ...]]:
    """Return the queries that improved most, and those that worsened most, largest change first.

    Equal changes come in the order of query ids; queries with an equal metric are in neither list.

    Args:
        base: Metrics before.
        tuned: Metrics after, over the same queries.
        metric: Metric of the change, such as "ndcg@10".
        queries: {query id: text}; the id replaces a missing text.
        before: The base's results, best first; queries may be missing.
        after: The tuned system's results, best first; queries may be missing.
        titles: {product id: title}; the id replaces a missing title.
        qrels: {query id: {product id: relevance}}.
        shown: Largest number of queries per list.
        depth: Results per query and system; None means as many as the metric counts, see `ranks_of`.

    Raises:
        EvaluationError: If the two systems were evaluated on different queries, or lack the metric.
    """
    values = _paired(base, tuned, metric)
    deep = ranks_of(metric) if depth is None else depth
    differences = dict(zip(base.query_ids, paired_differences(*values).tolist(), strict=True))
    places = {query_id: place for place, query_id in enumerate(base.query_ids)}

    def answers(query_id: str, rankings: Rankings) -> tuple[Answer, ...]:
        return tuple(
            Answer(
                product_id=product,
                title=titles.get(product, product),
                score=float(score),
                relevance=qrels.get(query_id, {}).get(product),
            )
            for product, score in rankings.get(query_id, ())[:deep]
        )

    def change(query_id: str) -> QueryChange:
        return QueryChange(
            query_id=query_id,
            query=queries.get(query_id, query_id),
            base=float(values[0][places[query_id]]),
            tuned=float(values[1][places[query_id]]),
            before=answers(query_id, before),
            after=answers(query_id, after),
        )

    improved = [query_id for query_id, difference in differences.items() if difference > 0]
    worsened = [query_id for query_id, difference in differences.items() if difference < 0]
    improved.sort(key=lambda query_id: (-differences[query_id], query_id))
    worsened.sort(key=lambda query_id: (differences[query_id], query_id))
    return tuple(map(change, improved[:shown])), tuple(map(change, worsened[:shown]))


def ranks_of(metric: str) -> int:
    """Return the number of ranks to show: as many as the metric counts, at most 100."""
    cutoff = metric.rpartition("@")[2]
    return min(int(cutoff), _MOST_RANKS) if cutoff.isdecimal() else _MOST_RANKS


def slices(
    base: RetrievalMetrics,
    tuned: RetrievalMetrics,
    *,
    metric: str,
    groups: Mapping[str, Mapping[str, str]],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Slice, ...]:
    """Return both systems' means on slices of the queries, and the difference with its 95% interval.

    Labels keep the order of their first occurrence in a grouping. A query without a label in a grouping
    is in no slice of that grouping; a label without an evaluated query has no slice. A slice of fewer than
    10 queries has no interval, because it would be too narrow to trust.

    Args:
        base: Metrics before.
        tuned: Metrics after, over the same queries.
        metric: Metric of the gain, such as "ndcg@10".
        groups: {name of the grouping, such as "query length": {query id: label}}.
        resamples: Bootstrap draws per slice.
        seed: Seed of the draws; the same seed gives the same intervals.

    Raises:
        EvaluationError: If the two systems were evaluated on different queries, or lack the metric.
    """
    before, after = _paired(base, tuned, metric)
    places = {query_id: place for place, query_id in enumerate(base.query_ids)}
    found = []
    for by, label_of in groups.items():
        rows: dict[str, list[int]] = {}
        for query_id, label in label_of.items():
            if query_id in places:
                rows.setdefault(label, []).append(places[query_id])
        for label, chosen in rows.items():
            gain = paired_differences(before[chosen], after[chosen])
            found.append(
                Slice(
                    by=by,
                    label=label,
                    queries=len(chosen),
                    base=float(before[chosen].mean()),
                    tuned=float(after[chosen].mean()),
                    difference=Estimate(float(gain.mean()))
                    if len(chosen) < FEWEST_QUERIES
                    else estimated_mean(gain, resamples=resamples, seed=seed),
                )
            )
    return tuple(found)


def query_length_groups(queries: Mapping[str, str]) -> dict[str, str]:
    """Return {query id: "1-2 words", "3-4 words" or "5+ words"}, shortest first.

    White space separates words.
    """
    lengths = {query_id: len(text.split()) for query_id, text in queries.items()}
    bounds = {"1-2 words": 2, "3-4 words": 4, "5+ words": float("inf")}
    shortest_first = sorted(lengths, key=lambda query_id: lengths[query_id])
    return {
        query_id: next(label for label, most in bounds.items() if lengths[query_id] <= most)
        for query_id in shortest_first
    }


def word_frequency_groups(queries: Mapping[str, str], texts_of_catalogue: Iterable[str]) -> dict[str, str]:
    """Return {query id: "rare", "medium" or "frequent"}, rarest first.

    The rarest word of a query decides: the word in the fewest texts of the catalogue, possibly in no text.
    Queries are ranked by that number of texts, ties share their mean rank, and the ranks are split into
    thirds, so that equally rare queries stay together. Words are runs of letters, digits and underscores
    after NFKC and case folding; queries without a word have no label.

    Args:
        queries: {query id: text}.
        texts_of_catalogue: Texts, read once; only the words of the queries are counted.
    """
    words = {query_id: _words(text) for query_id, text in queries.items()}
    counted = frozenset[str]().union(*words.values())
    frequency: Counter[str] = Counter()
    for text in texts_of_catalogue:
        frequency.update(counted & _words(text))
    rarest = {query_id: min(map(frequency.__getitem__, found)) for query_id, found in words.items() if found}
    if not rarest:
        return {}
    from scipy.stats import rankdata

    shares = (rankdata(list(rarest.values())) - 0.5) / len(rarest)
    share_of = dict(zip(rarest, shares.tolist(), strict=True))
    bounds = {"rare": 1 / 3, "medium": 2 / 3, "frequent": 1}
    return {
        query_id: next(label for label, most in bounds.items() if share_of[query_id] < most)
        for query_id in sorted(share_of, key=lambda query_id: share_of[query_id])
    }


def _paired(
    base: RetrievalMetrics, tuned: RetrievalMetrics, metric: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if base.query_ids != tuned.query_ids:
        raise EvaluationError(
            f"the two systems were evaluated on different queries ({len(base.query_ids)} and "
            f"{len(tuned.query_ids)}); evaluate both against the same judgements"
        )
    for found in (base, tuned):
        if metric not in found.per_query:
            raise EvaluationError(f"there is no metric {metric!r}; there are {', '.join(found.per_query)}")
    return base.per_query[metric], tuned.per_query[metric]


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
