"""Search by words (BM25), or by words and embeddings together (hybrid)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aisle.errors import SearchError
from aisle.index.filtered_search import Condition
from aisle.index.fusion import CANDIDATES, DEFAULT_WEIGHT, Candidates, fuse, padded
from aisle.index.lexical import Bm25Index, best_rows
from aisle.index.manifest import Manifest
from aisle.index.scoring import FloatArray, Rows, Scores, pair_scores
from aisle.index.search_result import SearchResult
from aisle.types.choices import Fusion
from aisle.types.sequences import as_sequence

__all__ = [
    "Searchable",
    "candidate_depth",
    "fuse_dense",
    "gather_candidates",
    "search_hybrid",
    "search_lexical",
    "weight_of",
]


class Searchable(Protocol):
    """An open index; `aisle.index.search_index.SearchIndex` describes each member."""

    @property
    def manifest(self) -> Manifest:
        """Return the version's manifest."""

    @property
    def embeddings(self) -> FloatArray:
        """Return the stored embeddings."""

    @property
    def tie_ranks(self) -> Rows:
        """Return the place of each product's id among the sorted ids."""

    @property
    def lexical(self) -> Bm25Index | None:
        """Return the BM25 index of the texts; None without texts."""

    def __len__(self) -> int: ...

    def search(
        self,
        query_embeddings: npt.NDArray[np.float32],
        *,
        top_k: int,
        ef_search: int | None = None,
        exact: bool = False,
        where: Condition | None = None,
        threads: int | None = None,
    ) -> SearchResult:
        """Return the best products by embeddings."""

    def result(self, rows: Rows, scores: Scores) -> SearchResult:
        """Return a result of rows and scores, with their product ids."""

    def satisfying(self, where: Condition) -> npt.NDArray[np.bool_]:
        """Return the mask of the products that satisfy a condition."""


def search_lexical(
    index: Searchable, queries: Iterable[str], *, top_k: int, where: Condition | None = None
) -> SearchResult:
    """Return the best `top_k` products per query by BM25; short answers end in row -1 and score -inf.

    Args:
        index: Index to search; embeddings are not used.
        queries: Texts to search for.
        top_k: As in `SearchIndex.search`.
        where: As in `SearchIndex.search`.

    Raises:
        SearchError: `top_k` is out of range, `where` does not match the products, or the index was built
        without texts.
    """
    queries = as_sequence(queries, "queries", SearchError)
    lexical = lexical_of(index)
    allowed, top_k = _allowed(index, where, top_k)
    if not top_k:
        return _nothing(index, len(queries))
    rows, scores = lexical.rank(queries, top_k=top_k, tie_ranks=index.tie_ranks, allowed=allowed)
    return index.result(*padded(list(zip(rows, scores, strict=True)), top_k=top_k))


def search_hybrid(
    index: Searchable,
    queries: Iterable[str],
    query_embeddings: npt.NDArray[np.float32],
    *,
    top_k: int,
    weight: float | None = None,
    fusion: Fusion = "convex",
    ef_search: int | None = None,
    exact: bool = False,
    where: Condition | None = None,
    threads: int | None = None,
) -> SearchResult:
    """Return the best `top_k` products per query by fused cosine and BM25, best first; ties by product id.

    A product with the query as its id comes first. The result also has the cosine of each product.

    Args:
        index: Index to search.
        queries: Texts to search for.
        query_embeddings: (queries, dim) float32 of the same queries, unit L2 norm.
        top_k: As in `SearchIndex.search`.
        weight: Weight of the dense side in [0, 1]; None is the index's weight, see `weight_of`.
        fusion: "convex" for weighted scores, "rrf" for reciprocal ranks, which ignore the weight.
        ef_search: As in `SearchIndex.search`, for the dense side.
        exact: As in `SearchIndex.search`, for the dense side.
        where: As in `SearchIndex.search`, for both sides.
        threads: As in `SearchIndex.search`, for the dense side.

    Raises:
        SearchError: An argument is out of range, the numbers of queries and embeddings differ, or the index
            was built without texts.
    """
    queries = as_sequence(queries, "queries", SearchError)
    lexical_of(index)
    allowed, top_k = _allowed(index, where, top_k)
    if not top_k:
        return _nothing(index, len(queries))
    dense = index.search(
        query_embeddings,
        top_k=candidate_depth(top_k, count=len(index)),
        ef_search=ef_search,
        exact=exact,
        where=allowed,
        threads=threads,
    )
    return fuse_dense(
        index,
        queries,
        query_embeddings,
        dense.rows,
        top_k=top_k,
        weight=weight,
        fusion=fusion,
        allowed=allowed,
    )


def fuse_dense(
    index: Searchable,
    queries: Iterable[str],
    query_embeddings: npt.NDArray[np.float32],
    dense_rows: Rows,
    *,
    top_k: int,
    weight: float | None = None,
    fusion: Fusion = "convex",
    allowed: npt.NDArray[np.bool_] | None = None,
) -> SearchResult:
    """Fuse the products of a dense search with those of BM25; return the best `top_k`, ties by product id.

    Args:
        index: Index that was searched.
        queries: Texts to search for.
        query_embeddings: (queries, dim) float32 of the same queries, unit L2 norm.
        dense_rows: (queries, `candidate_depth`) best rows by cosine, -1 after the last of a short answer.
        top_k: Products per query.
        weight: As in `search_hybrid`.
        fusion: As in `search_hybrid`.
        allowed: (count,) bool, rows that BM25 may return; None is all rows.

    Raises:
        SearchError: As in `search_hybrid`.
    """
    candidates = gather_candidates(
        lexical_of(index),
        index.embeddings,
        queries,
        np.asarray(query_embeddings, np.float32),
        dense_rows=dense_rows,
        tie_ranks=index.tie_ranks,
        allowed=allowed,
    )
    chosen = weight_of(index) if weight is None else weight
    rows, scores = fuse(candidates, top_k=top_k, tie_ranks=index.tie_ranks, weight=chosen, fusion=fusion)
    return replace(index.result(rows, scores), cosines=_cosines(candidates, rows))


def weight_of(index: Searchable) -> float:
    """Return the index's weight of the dense side, tuned at its build, or `DEFAULT_WEIGHT`."""
    tuned = index.manifest.hybrid_weight
    return DEFAULT_WEIGHT if tuned is None else tuned


def candidate_depth(top_k: int, *, count: int) -> int:
    """Return how many products to take from each side: `CANDIDATES`, or `top_k` if larger; at most all."""
    return min(count, max(CANDIDATES, top_k))


def gather_candidates(
    lexical: Bm25Index,
    embeddings: FloatArray,
    queries: Iterable[str],
    query_embeddings: Scores,
    *,
    dense_rows: Rows,
    tie_ranks: Rows,
    allowed: npt.NDArray[np.bool_] | None = None,
) -> list[Candidates]:
    """Return the union of both sides' best products per query, each with its exact score on both sides.

    Args:
        lexical: BM25 index of the texts.
        embeddings: (count, dim) stored embeddings, unit L2 norm.
        queries: Texts to search for.
        query_embeddings: (queries, dim) float32 of the same queries, unit L2 norm.
        dense_rows: (queries, depth) best rows by cosine, -1 after the last of a short answer; BM25 finds up
        to `depth` as well.
        tie_ranks: (count,) order among equal scores, lowest first.
        allowed: (count,) bool, rows that BM25 may return; None is all rows.

    Raises:
        SearchError: The numbers of queries and of query embeddings differ.
    """
    queries = as_sequence(queries, "queries", SearchError)
    if len(queries) != len(query_embeddings):
        raise SearchError(
            f"queries: must be the texts of the {len(query_embeddings)} query_embeddings, found "
            f"{len(queries)}"
        )
    depth = dense_rows.shape[1]
    gathered = []
    for query, asked, dense in zip(queries, query_embeddings, dense_rows, strict=True):
        scores = lexical.score(query)
        named, _ = best_rows(scores, top_k=depth, tie_ranks=tie_ranks, allowed=allowed)
        rows = np.union1d(dense[dense >= 0], named)
        cosines = pair_scores(embeddings, rows, asked[None], np.zeros(len(rows), np.int64))
        gathered.append(
            Candidates(
                rows=rows,
                dense=cosines,
                lexical=scores[rows],
                highest=lexical.highest_score(query),
                depth=depth,
                by_id=np.isin(rows, lexical.named(query)),
            )
        )
    return gathered


def _cosines(candidates: Sequence[Candidates], rows: Rows) -> Scores:
    """Return the cosines of (queries, top_k) rows, which are among the candidates."""
    cosines = np.full(rows.shape, -np.inf, np.float32)
    for found, chosen, values in zip(candidates, rows, cosines, strict=True):
        answered = int(np.count_nonzero(chosen >= 0))
        values[:answered] = found.dense[np.searchsorted(found.rows, chosen[:answered])]  # rows are sorted
    return cosines


def lexical_of(index: Searchable) -> Bm25Index:
    if index.lexical is None:
        raise SearchError(
            "the index was built without its products' texts and has no BM25; build it again with them "
            "(texts=...), or search by embeddings alone"
        )
    return index.lexical


def _allowed(
    index: Searchable, where: Condition | None, top_k: int
) -> tuple[npt.NDArray[np.bool_] | None, int]:
    """Return the mask of the rows that may be returned, and how many of them to return."""
    if top_k < 1:
        raise SearchError(f"top_k: must be at least 1, found {top_k}")
    if where is None:
        return None, min(top_k, len(index))
    allowed = index.satisfying(where)
    return allowed, min(top_k, int(np.count_nonzero(allowed)))


def _nothing(index: Searchable, queries: int) -> SearchResult:
    return index.result(np.empty((queries, 0), np.int64), np.empty((queries, 0), np.float32))
