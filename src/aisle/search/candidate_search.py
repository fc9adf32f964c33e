"""Find the candidate set of each query: all products that its total, pages, facets and groups count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.errors import SearchError
from aisle.index.fusion import Candidates, fuse, side_ranks
from aisle.index.hybrid_search import gather_candidates, lexical_of
from aisle.index.lexical import best_rows
from aisle.index.scoring import Rows, Scores
from aisle.index.search_index import SearchIndex, check_count
from aisle.search.calibrated_threshold import lowest_scores
from aisle.search.candidates import CandidateSet, CandidateSettings, Total

__all__ = ["find_candidates"]

PART_QUERIES = 4
"""Queries searched together if the search may be ended between them."""


def find_candidates(
    index: SearchIndex,
    queries: Sequence[str],
    query_embeddings: npt.NDArray[np.float32] | None,
    settings: CandidateSettings,
    *,
    threads: int | None = None,
    between: Callable[[], None] | None = None,
) -> list[CandidateSet]:
    """Return the candidate set of each query.

    Args:
        index: Index to search.
        queries: Texts to search for.
        query_embeddings: (queries, dim) float32 of the same queries, unit L2 norm; "lexical" needs none.
        settings: Settings of all sets.
        threads: Threads that search the graph; None is one per core.
        between: Function called between queries and within a long filter; an error that it raises ends the
            search.

    Raises:
        SearchError: A setting is out of range, the filter does not fit the products, the numbers of queries
            and embeddings differ, or the index was built without the texts that the mode needs.
    """
    check_count("window", settings.window)
    if settings.min_score is not None and not math.isfinite(settings.min_score):
        raise SearchError(f"min_score: must be a finite number, found {settings.min_score}")
    where = settings.where
    allowed = None if where is None else index.satisfying(where, between=between)
    search = _Search(index, settings, allowed)
    floors = _floors(index, queries, settings)
    if settings.mode == "lexical":
        query_embeddings = np.zeros((len(queries), 0), np.float32)
    elif query_embeddings is None or len(query_embeddings) != len(queries):
        given = "none" if query_embeddings is None else len(query_embeddings)
        raise SearchError(
            f"query_embeddings: must be those of the {len(queries)} queries, found {given}; give "
            "searcher.encode(queries)"
        )
    step = max(1, len(queries)) if between is None else PART_QUERIES
    found: list[CandidateSet] = []
    for start in range(0, max(1, len(queries)), step):
        if between is not None:
            between()
        part = slice(start, start + step)
        found += search.candidates(queries[part], floors[part], query_embeddings[part], threads)
    return found


def _floors(index: SearchIndex, queries: Sequence[str], settings: CandidateSettings) -> list[float]:
    """Return the lowest score of each query: of the mode's scores for `p`, as described for `min_score`."""
    if settings.p is None:
        return [-math.inf if settings.min_score is None else settings.min_score] * len(queries)
    lowest = lowest_scores(
        index, queries, mode=settings.mode, p=settings.p, weight=settings.weight, fusion=settings.fusion
    )
    found: list[float] = lowest.tolist()
    return found


@dataclass(frozen=True, eq=False)
class _Search:
    """A search of an index with the same settings for each query."""

    index: SearchIndex
    settings: CandidateSettings
    allowed: npt.NDArray[np.bool_] | None
    """(count,) bool, whether each product satisfies the filter; None without a filter."""

    def candidates(
        self,
        queries: Sequence[str],
        floors: Sequence[float],
        query_embeddings: npt.NDArray[np.float32],
        threads: int | None,
    ) -> list[CandidateSet]:
        """Return the candidate set of each query."""
        index, settings = self.index, self.settings
        if settings.mode == "lexical":
            return [self.lexical(*asked) for asked in zip(queries, floors, strict=True)]
        nearest = index.search(
            query_embeddings,
            top_k=settings.window + 1,  # shows whether the window cuts a product off
            ef_search=settings.ef_search,
            exact=settings.exact,
            where=self.allowed,
            threads=threads,
        )
        if settings.mode == "dense":
            found_by_cosine = zip(queries, floors, nearest.rows, nearest.scores, strict=True)
            return [self.dense(*found) for found in found_by_cosine]
        gathered = gather_candidates(
            lexical_of(index),
            index.embeddings,
            queries,
            np.asarray(query_embeddings, np.float32),
            dense_rows=nearest.rows[:, : settings.window],
            tie_ranks=index.tie_ranks,
            allowed=self.allowed,
        )
        return [self.hybrid(*found) for found in zip(queries, floors, gathered, nearest.scores, strict=True)]

    def dense(self, query: str, floor: float, rows: Rows, cosines: Scores) -> CandidateSet:
        """Return the nearest products, from the best `window + 1` products by cosine."""
        passed = int(np.count_nonzero(cosines >= floor))  # the first ones: cosines fall
        kept = min(passed, self.settings.window)
        return CandidateSet(
            query=query,
            settings=self.settings,
            index=self.index,
            rows=rows[:kept],
            score=cosines[:kept],
            total=Total(kept, "eq" if passed == kept else "gte"),
            unranked=_none(0),
            dense_rank=1 + np.arange(kept),
            bm25_rank=_none(kept),
            dense=cosines[:kept],
        )

    def lexical(self, query: str, floor: float) -> CandidateSet:
        """Return the products with a word of the query: all are counted, and the window is ranked."""
        lexical = lexical_of(self.index)
        bm25 = lexical.score(query)
        counted = (bm25 > 0) & (bm25 >= floor)
        if self.settings.p is not None:
            counted[lexical.named(query)] = True  # a query that is a product's id means that product
        if self.allowed is not None:
            counted &= self.allowed
        rows, scores = best_rows(
            bm25, top_k=self.settings.window, tie_ranks=self.index.tie_ranks, allowed=counted
        )
        counted[rows] = False
        unranked = np.flatnonzero(counted)
        return CandidateSet(
            query=query,
            settings=self.settings,
            index=self.index,
            rows=rows,
            score=scores,
            total=Total(len(rows) + len(unranked), "eq"),
            unranked=unranked,
            dense_rank=_none(len(rows)),
            bm25_rank=1 + np.arange(len(rows)),
            bm25=scores,
        )

    def hybrid(self, query: str, floor: float, found: Candidates, nearest: Scores) -> CandidateSet:
        """Return the products that either side found, in the order of their fused scores.

        Args:
            query: Text to search for.
            floor: Lowest fused score with `p`, otherwise lowest cosine.
            found: The best `window` products of each side.
            nearest: Cosines of the best `window + 1` products, best first.
        """
        settings = self.settings
        ties = self.index.tie_ranks
        (rows,), (fused,) = fuse(
            [found], top_k=len(found.rows), tie_ranks=ties, weight=settings.weight, fusion=settings.fusion
        )
        order = np.searchsorted(found.rows, rows)  # the rows of `found` ascend
        dense_rank, bm25_rank = side_ranks(found, tie_ranks=ties)
        unseen = float(nearest[-1]) if len(nearest) else -math.inf
        passes = found.dense[order] >= floor
        if settings.p is not None:
            passes, unseen = fused >= floor, self._highest_unseen(found, unseen, bm25_rank)
        if found.by_id is not None:
            passes |= found.by_id[order]  # a query that is a product's id means that product
        order, fused = order[passes], fused[passes]
        cut = len(found.rows) < self._satisfying and unseen >= floor
        return CandidateSet(
            query=query,
            settings=settings,
            index=self.index,
            rows=found.rows[order],
            score=fused,
            total=Total(len(order), "gte" if cut else "eq"),
            unranked=_none(0),
            dense_rank=dense_rank[order],
            bm25_rank=bm25_rank[order],
            dense=found.dense[order],
            bm25=found.lexical[order],
            fused=fused,
        )

    @property
    def _satisfying(self) -> int:
        return len(self.index) if self.allowed is None else int(np.count_nonzero(self.allowed))

    def _highest_unseen(self, found: Candidates, nearest: float, bm25_rank: Rows) -> float:
        """Return an upper limit of the fused scores of products that neither side found.

        Args:
            found: The best `window` products of each side.
            nearest: Cosine of the first product after the window.
            bm25_rank: (candidates,) ranks by BM25.
        """
        last = found.lexical[bm25_rank == self.settings.window].max(initial=0.0)
        weight = self.settings.weight
        return weight * (nearest + 1.0) / 2.0 + (1.0 - weight) * float(last) / found.highest


def _none(count: int) -> Rows:
    """Return ranks of products that a side did not find."""
    return np.zeros(count, np.int64)
