"""Rerank the first products of a candidate set, so that all its pages follow the same order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from aisle.errors import SearchError
from aisle.index.scoring import Rows, Scores
from aisle.search.candidates import CandidateSet
from aisle.search.rerank_stage import RerankStage
from aisle.types.columns import TEXT_COLUMN

__all__ = ["rerank_candidates"]


def rerank_candidates(found: CandidateSet, stage: RerankStage, top_n: int) -> CandidateSet:
    """Return a candidate set with its first `top_n` products in the order of a reranker's scores.

    Equal scores keep their order, and the other products follow in theirs. The set has the same products, so
    its total and its facets do not change.

    Args:
        found: The candidate set.
        stage: Scores the products.
        top_n: Products to score, at least 1.

    Raises:
        SearchError: The index stores no texts.
        ModelError: The reranker fails.
    """
    if TEXT_COLUMN not in found.products.column_names:
        raise SearchError("rerank: reads the products' texts, and the index stores none; build it with them")
    first = found.rows[:top_n]
    if not len(first):
        return found
    texts = found.products.column(TEXT_COLUMN).take(pa.array(first)).to_pylist()
    scores = stage.scores(found.query, texts, found.score[:top_n])
    best = np.argsort(-scores, kind="stable")
    order = np.concatenate([best, np.arange(len(first), len(found.rows))])
    return replace(
        found,
        rows=found.rows[order],
        score=found.score[order],
        dense_rank=found.dense_rank[order],
        bm25_rank=found.bm25_rank[order],
        dense=_ordered(found.dense, order),
        bm25=_ordered(found.bm25, order),
        fused=_ordered(found.fused, order),
        rerank=scores[best],
    )


def _ordered(scores: Scores | None, order: Rows) -> Scores | None:
    return None if scores is None else scores[order]
