"""Fuse two rankings into one: by a convex combination of scaled scores, or by reciprocal ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.errors import SearchError
from aisle.index.scoring import Rows, Scores
from aisle.types.choices import Fusion

__all__ = [
    "CANDIDATES",
    "DEFAULT_WEIGHT",
    "WEIGHTS",
    "Candidates",
    "convex_scores",
    "fuse",
    "reciprocal_rank_scores",
    "side_ranks",
    "tune_weight",
]

CANDIDATES = 100
"""Number of best products from each side that are fused."""
RECIPROCAL_RANK_CONSTANT = 60
"""Constant k of reciprocal rank fusion, as in its paper."""
DEFAULT_WEIGHT = 0.5
"""Weight of the dense side without tuning: the best for MiniLM on SciFact's training queries."""
WEIGHTS = tuple(step / 20 for step in range(21))
"""Weights that `tune_weight` tries: 0, 0.05, ..., 1."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Products that either side found for a query, with their scores on both sides."""

    rows: Rows
    """(candidates,) distinct rows of the index."""
    dense: Scores
    """(candidates,) cosine of each candidate, whichever side found it."""
    lexical: Scores
    """(candidates,) BM25 score of each candidate, 0 if it has no word of the query."""
    highest: float
    """Upper limit of BM25 scores for this query; above 0."""
    depth: int
    """Number of best products taken from each side."""
    by_id: npt.NDArray[np.bool_] | None = None
    """(candidates,) bool, whether the query is the product's id; None if it is for no candidate."""


def convex_scores(candidates: Candidates, *, weight: float) -> npt.NDArray[np.float64]:
    """Return (candidates,) weight * dense + (1 - weight) * lexical, both from 0 to 1.

    Both are (score - lowest possible) / (highest possible - lowest possible): (cosine + 1) / 2, and BM25
    divided by the sum of the idf of the query's words. The theoretical minimum is from Bruch, Gai, Ingber (An
    Analysis of Fusion Functions for Hybrid Retrieval, 2022, https://arxiv.org/abs/2210.11934). They divide by
    the query's best score, which gives 1 to the best of poor answers too. A product named by its id has 1.
    """
    dense = (candidates.dense.astype(np.float64) + 1.0) / 2.0
    lexical = candidates.lexical.astype(np.float64) / candidates.highest
    scores = weight * dense + (1.0 - weight) * lexical
    return scores if candidates.by_id is None else np.where(candidates.by_id, 1.0, scores)


def reciprocal_rank_scores(candidates: Candidates, *, tie_ranks: Rows) -> npt.NDArray[np.float64]:
    """Return the sum of 1 / (60 + rank) over the sides that found the product: (candidates,).

    Cormack, Clarke, Buettcher: Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
    Methods (SIGIR 2009). A side finds its best `depth` products; BM25 finds only products with a word of the
    query. A product that the query names by its id ranks first on both sides.
    """
    total = np.zeros(len(candidates.rows))
    for ranks in side_ranks(candidates, tie_ranks=tie_ranks):
        found = ranks > 0
        total[found] += 1.0 / (RECIPROCAL_RANK_CONSTANT + ranks[found])
    if candidates.by_id is not None:
        total[candidates.by_id] = 2.0 / (RECIPROCAL_RANK_CONSTANT + 1)
    return total


def side_ranks(candidates: Candidates, *, tie_ranks: Rows) -> tuple[Rows, Rows]:
    """Return the (candidates,) ranks of the dense and of the lexical side, from 1 to `depth`.

    The rank is 0 if the side did not find the product: it is not among the best `depth`, or it has no word of
    the query.

    Args:
        candidates: Candidates of a query.
        tie_ranks: (count,) order among equal scores, lowest first.
    """
    ties = tie_ranks[candidates.rows]
    sides = []
    for scores, named in (
        (candidates.dense, np.ones(len(candidates.rows), np.bool_)),
        (candidates.lexical, candidates.lexical > 0),
    ):
        order = np.lexsort((ties, -scores))
        order = order[named[order]][: candidates.depth]
        ranks = np.zeros(len(candidates.rows), np.int64)
        ranks[order] = 1 + np.arange(len(order))
        sides.append(ranks)
    return sides[0], sides[1]


def fuse(
    candidates: Sequence[Candidates],
    *,
    top_k: int,
    tie_ranks: Rows,
    weight: float = DEFAULT_WEIGHT,
    fusion: Fusion = "convex",
) -> tuple[Rows, Scores]:
    """Return the best `top_k` candidates per query, best first; ties are ordered by `tie_ranks`.

    Args:
        candidates: Candidates of each query.
        top_k: Products per query.
        tie_ranks: (count,) order among equal scores, lowest first.
        weight: Weight of the dense side in [0, 1]; 1 is the dense order, 0 the lexical one; unused by "rrf".
        fusion: "convex" for `convex_scores`, "rrf" for `reciprocal_rank_scores`.

    Returns:
        (queries, top_k) rows and (queries, top_k) float32 fused scores in [0, 1]; a short answer ends in row
        -1 and score -inf.

    Raises:
        SearchError: `weight` is not in [0, 1] or `fusion` is unknown.
    """
    if not 0.0 <= weight <= 1.0:
        raise SearchError(f"weight: must be from 0 (lexical only) to 1 (dense only), found {weight}")
    if fusion not in ("convex", "rrf"):
        raise SearchError(f"fusion: must be 'convex' or 'rrf', found {fusion!r}")
    ranked = []
    for found in candidates:
        if fusion == "convex":
            scores = convex_scores(found, weight=weight)
        else:
            scores = reciprocal_rank_scores(found, tie_ranks=tie_ranks)
        others = np.ones(len(scores), np.bool_) if found.by_id is None else ~found.by_id
        order = np.lexsort((tie_ranks[found.rows], -scores, others))[:top_k]
        ranked.append((found.rows[order], scores[order].astype(np.float32)))
    return padded(ranked, top_k=top_k)


def padded(ranked: Sequence[tuple[Rows, Scores]], *, top_k: int) -> tuple[Rows, Scores]:
    """Return rankings of up to `top_k` as (queries, top_k) arrays, padded with row -1 and score -inf."""
    rows = np.full((len(ranked), top_k), -1, np.int64)
    scores = np.full((len(ranked), top_k), -np.inf, np.float32)
    for query, (found, values) in enumerate(ranked):
        rows[query, : len(found)] = found
        scores[query, : len(found)] = values
    return rows, scores


def tune_weight(
    quality: Callable[[float], float],
    *,
    weights: Iterable[float] = WEIGHTS,
    default: float = DEFAULT_WEIGHT,
) -> float:
    """Return the weight with the best quality; of equal ones the nearest to `default`, then the lower.

    Args:
        quality: Returns the quality of a weight on judged training queries, such as mean nDCG@10; higher is
        better.
        weights: Weights to try.
        default: Weight to prefer if the judgements do not decide.
    """
    measured: dict[float, float] = {weight: quality(weight) for weight in weights}
    return min(measured, key=lambda weight: (-measured[weight], abs(weight - default), weight))
