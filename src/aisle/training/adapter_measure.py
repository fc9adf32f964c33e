"""Measure a query adapter on judged queries: nDCG@10 of searches before and after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.evaluation.document import Estimate
from aisle.evaluation.significance import bootstrap_interval, paired_differences
from aisle.index.scoring import Rows
from aisle.index.search_index import SearchIndex
from aisle.training.adapter_queries import AdapterQueries

__all__ = ["CUTOFF", "AdapterGain", "Gain", "gain_of", "measure_adapter", "ndcg_of_searches"]

CUTOFF = 10
"""The k of nDCG@k."""
CHUNK_QUERIES = 1024

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """Quality before and after, over the same queries.

    Args:
        queries: Number of queries.
        before: Mean nDCG@10 of the searches before.
        after: Mean nDCG@10 of the searches after.
        difference: Mean of the differences with its paired 95% interval.
        better: Number of queries with a higher value after.
        worse: Number of queries with a lower value after.
    """

    queries: int
    before: float
    after: float
    difference: Estimate
    better: int
    worse: int

    @property
    def proven(self) -> bool:
        """Whether the interval of the difference lies above 0."""
        return self.difference.low is not None and self.difference.low > 0


@dataclass(frozen=True)
class AdapterGain:
    """Gain of an adapter on queries that it was not trained on.

    Args:
        all_products: Gain with all judged products.
        unseen_products: Gain with only the products that were not relevant to a training query; None if
            fewer than two held-out queries have one.
    """

    all_products: Gain
    unseen_products: Gain | None


def measure_adapter(
    index: SearchIndex,
    queries: AdapterQueries,
    *,
    before: npt.NDArray[np.float32],
    after: npt.NDArray[np.float32],
    seen: Rows,
) -> AdapterGain:
    """Return the gain of an adapter over the index as it is.

    Args:
        index: The index.
        queries: Queries that the adapter was not trained on.
        before: Embeddings with which the index is searched for them, (queries, dim).
        after: Their embeddings with the new adapter, (queries, dim).
        seen: Rows that were relevant to training queries.
    """
    unseen = np.ones(len(index), np.bool_)
    unseen[seen] = False
    found = [
        [ndcg_of_searches(index, queries, asked, unseen=only) for asked in (before, after)]
        for only in (None, unseen)
    ]
    measured = ~np.isnan(found[1][0])
    return AdapterGain(
        all_products=gain_of(*found[0]),
        unseen_products=gain_of(*(values[measured] for values in found[1])) if measured.sum() > 1 else None,
    )


def gain_of(before: Values, after: Values, *, resamples: int = 10_000) -> Gain:
    """Return the gain from the values of the same queries before and after, each (queries,).

    Args:
        before: nDCG@10 of each query before.
        after: nDCG@10 of each query after.
        resamples: Draws of the bootstrap.
    """
    differences = paired_differences(before, after)
    low, high = bootstrap_interval(differences, resamples=resamples)
    return Gain(
        queries=len(before),
        before=float(before.mean()),
        after=float(after.mean()),
        difference=Estimate(float(differences.mean()), low, high),
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
    )


def ndcg_of_searches(
    index: SearchIndex,
    queries: AdapterQueries,
    embeddings: npt.NDArray[np.float32],
    *,
    unseen: npt.NDArray[np.bool_] | None = None,
) -> Values:
    """Return nDCG@10 of a search for each query, (queries,), as `evaluate_run` defines it.

    With `unseen`, only unseen products count as right answers, and relevant products that are not unseen are
    taken out of the answers, because they are right too. A query without an unseen relevant product has NaN.

    Args:
        index: The index, searched as `query` does by default.
        queries: Judged queries.
        embeddings: (queries, dim) embeddings to search with.
        unseen: (count,) whether a row was not relevant to any training query; None counts all rows.
    """
    counted = queries.gains.astype(np.float64)
    if unseen is not None:
        counted = np.where(unseen[queries.rows], counted, 0.0)
    taken_out = (queries.gains > 0) & (counted == 0)
    query_of, count = queries.query_of, np.int64(len(index))
    out = np.bincount(query_of[taken_out], minlength=len(queries))
    depth = min(CUTOFF + int(out.max(initial=0)), len(index))
    keys = query_of * count + queries.rows  # ascending: queries are in order, and their rows too
    ideal = _ideal(query_of, counted, len(queries))
    found = np.zeros(len(queries))
    for start in range(0, len(queries), CHUNK_QUERIES):
        rows = index.search(embeddings[start : start + CHUNK_QUERIES], top_k=depth).rows
        asked = np.arange(start, start + len(rows))[:, None] * count + rows
        place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        judged = (keys[place] == asked) & (rows >= 0)
        found[start : start + len(rows)] = _dcg(
            np.where(judged, counted[place], 0.0), shown=~(judged & taken_out[place]) & (rows >= 0)
        )
    values: Values = np.divide(found, ideal, out=np.full(len(queries), np.nan), where=ideal > 0)
    return values


def _dcg(gains: Values, *, shown: npt.NDArray[np.bool_]) -> Values:
    """Return the discounted gains of the first ten products that are shown, (queries,)."""
    rank = np.cumsum(shown, axis=1)
    kept = shown & (rank <= CUTOFF)
    discounted: Values = np.where(kept, gains / np.log2(np.maximum(rank, 1) + 1), 0.0).sum(axis=1)
    return discounted


def _ideal(query_of: Rows, gains: Values, queries: int) -> Values:
    """Return the highest possible discounted gain of each query, (queries,)."""
    order = np.lexsort((-gains, query_of))
    sizes = np.bincount(query_of, minlength=queries)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = rank < CUTOFF
    ranked: Values = gains[order][kept] / np.log2(rank[kept] + 2)
    best: Values = np.bincount(query_of[order][kept], weights=ranked, minlength=queries).astype(np.float64)
    return best
