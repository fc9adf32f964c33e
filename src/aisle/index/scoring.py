"""Exact scores and exact search over stored embeddings, and the recall of an approximate search."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["ann_recall", "best_per_query", "exact_search", "pair_scores", "row_scores"]

FloatArray = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

QUERY_BLOCK = 128
"""Queries scored at a time: 128 x 8,192 float32 scores are 4 MiB."""
SCORED_VALUES = 2**16
"""Stored values scored at once: their float64 copy, 512 KiB, stays in the processor's cache."""
SCORE_ERROR = np.float32(1e-6)
"""Largest error of a score that was summed in float32."""


def exact_search(
    embeddings: FloatArray,
    query_embeddings: Scores,
    *,
    top_k: int,
    tie_ranks: Rows | None = None,
    chunk_rows: int = 8192,
) -> tuple[Rows, Scores]:
    """Return the rows and scores of the `top_k` best products per query, best first.

    A float32 matrix product selects candidates, and `pair_scores` ranks them. So the result does not depend
    on `chunk_rows`, the number of queries or the BLAS threads, which all change the last bits of a matrix
    product.

    Args:
        embeddings: (count, dim) float32 or float16, unit L2 norm; a memory map is read chunk by chunk.
        query_embeddings: (queries, dim) float32, unit L2 norm.
        top_k: Products per query, 1 <= top_k <= count.
        tie_ranks: (count,) order among equal scores, lowest first; None is the order of the rows.
        chunk_rows: Rows in memory at once.

    Returns:
        (queries, top_k) rows and (queries, top_k) scores.
    """
    count, dim = embeddings.shape
    queries = len(query_embeddings)
    ranks = np.arange(count, dtype=np.int64) if tie_ranks is None else tie_ranks
    rows = [np.empty((min(QUERY_BLOCK, queries - at), 0), np.int64) for at in range(0, queries, QUERY_BLOCK)]
    scores = [held.astype(np.float32) for held in rows]
    for start in range(0, count, chunk_rows):
        chunk = np.asarray(embeddings[start : start + chunk_rows], dtype=np.float32)
        for block in range(len(rows)):
            asked = query_embeddings[block * QUERY_BLOCK : (block + 1) * QUERY_BLOCK]
            query_of, offsets = _contenders(asked @ chunk.T, scores[block], top_k=top_k, margin=_margin(dim))
            rows[block], scores[block] = best_per_query(
                np.concatenate([np.repeat(np.arange(len(asked)), rows[block].shape[1]), query_of]),
                np.concatenate([rows[block].ravel(), offsets + start]),
                np.concatenate([scores[block].ravel(), pair_scores(chunk, offsets, asked, query_of)]),
                tie_ranks=ranks,
                top_k=top_k,
                queries=len(asked),
            )
    if not rows:
        return np.empty((0, top_k), np.int64), np.empty((0, top_k), np.float32)
    return np.concatenate(rows), np.concatenate(scores)


def pair_scores(embeddings: FloatArray, rows: Rows, query_embeddings: Scores, query_of: Rows) -> Scores:
    """Return the (pairs,) cosines of pairs of a stored row and a query, as `row_scores` gives them.

    Args:
        embeddings: (count, dim) float32 or float16, unit L2 norm.
        rows: (pairs,) rows of `embeddings`.
        query_embeddings: (queries, dim) float32, unit L2 norm.
        query_of: (pairs,) rows of `query_embeddings`.
    """
    scores = np.empty(len(rows), np.float32)
    step = max(1, SCORED_VALUES // embeddings.shape[1])
    for start in range(0, len(rows), step):
        pairs = slice(start, start + step)
        asked = query_embeddings[query_of[pairs]]
        scores[pairs] = row_scores(embeddings, rows[pairs, None], asked)[:, 0]
    return scores


def row_scores(embeddings: FloatArray, rows: Rows, query_embeddings: Scores) -> Scores:
    """Return the (queries, n) cosines of each query and its rows, independent of all other pairs.

    Each pair is summed separately in float64, always in the same order, and then rounded. So equal vectors
    have equal scores, which a matrix product does not guarantee.

    Args:
        embeddings: (count, dim) float32 or float16, unit L2 norm.
        rows: (queries, n) rows of `embeddings`.
        query_embeddings: (queries, dim) float32, unit L2 norm.
    """
    scores = np.empty(rows.shape, np.float32)
    queries, n = rows.shape
    width = max(1, SCORED_VALUES // embeddings.shape[1])
    step = max(1, width // max(1, n))
    for start in range(0, queries, step):
        asked = query_embeddings[start : start + step].astype(np.float64)
        for first in range(0, n, width):
            part = slice(start, start + step), slice(first, first + width)
            stored = embeddings[rows[part]].astype(np.float64)
            scores[part] = np.einsum("qnd,qd->qn", stored, asked)
    return scores


def best_per_query(
    query_of: Rows, rows: Rows, scores: Scores, *, tie_ranks: Rows, top_k: int, queries: int
) -> tuple[Rows, Scores]:
    """Return the best `top_k` of the given (query, row, score) triples per query, best first.

    Args:
        query_of: (triples,) query of each triple; every query has at least `top_k`, or all have equally many.
        rows: (triples,) row of each triple; a row appears once per query.
        scores: (triples,) score of each triple.
        tie_ranks: (count,) order among equal scores, lowest first.
        top_k: Triples to keep per query.
        queries: Number of queries.

    Returns:
        (queries, kept) rows and (queries, kept) scores, kept <= top_k.
    """
    order = np.lexsort((tie_ranks[rows], -scores, query_of))
    sizes = np.bincount(query_of, minlength=queries)
    position = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = order[position < top_k]
    return rows[kept].reshape(queries, -1), scores[kept].reshape(queries, -1)


def ann_recall(
    approximate_rows: Rows, exact_rows: Rows, *, approximate_scores: Scores, exact_scores: Scores
) -> float:
    """Return the share of the exact results that an approximate search found, in [0, 1].

    A row also counts if its score equals that of the last exact row, within `SCORE_ERROR`: among equal scores
    the choice is arbitrary.

    Args:
        approximate_rows: (queries, top_k) distinct rows per query.
        exact_rows: (queries, top_k) rows of the exact search of the same queries.
        approximate_scores: (queries, top_k) scores of `approximate_rows`.
        exact_scores: (queries, top_k) scores of `exact_rows`, best first.
    """
    found = [np.isin(mine, true) for mine, true in zip(approximate_rows, exact_rows, strict=True)]
    return float(np.mean(np.stack(found) | (approximate_scores >= exact_scores[:, -1:] - SCORE_ERROR)))


def _contenders(rough: Scores, held: Scores, *, top_k: int, margin: float) -> tuple[Rows, Rows]:
    """Return (query, offset) of every pair of a chunk that may be among the best `top_k`.

    Args:
        rough: (queries, rows) scores by matrix product.
        held: (queries, at most top_k) best scores of the previous chunks, best first.
        top_k: Products per query.
        margin: Twice the largest error of a rough score.
    """
    floor = np.full(len(rough), -np.inf, np.float32)
    if rough.shape[1] > top_k:
        floor = np.partition(rough, -top_k, axis=1)[:, -top_k]
    if held.shape[1] == top_k:
        floor = np.maximum(floor, held[:, -1])
    query_of, offsets = np.nonzero(rough >= (floor - np.float32(margin))[:, None])
    return query_of, offsets


def _margin(dim: int) -> float:
    """Return twice the largest error of a float32 inner product of two unit vectors.

    An inner product of n terms is off by at most n u / (1 - n u) times the product of the norms, where
    u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). The rest is for norms up to 1e-3
    from 1, and for the rounding of the true score.
    """
    return 2.1 * (dim + 2) * 2.0**-24
