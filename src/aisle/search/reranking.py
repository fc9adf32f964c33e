"""Reorder the best products of a search by a second, slower score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from aisle.errors import SearchError
from aisle.index.search_result import Hit, SearchResult

__all__ = ["RERANK_DEPTH", "Rerank", "rerank_answers"]

RERANK_DEPTH = 100
"""Default number of candidates per query that a rerank stage scores."""

Rerank: TypeAlias = Callable[[str, Sequence[Hit]], Iterable[float]]
"""Score the candidates of one query: from the query and its hits, best first, to a score for each hit.

Higher is better. A hit gives its first score, its text and its payload. Threads call it at the same time.
"""


def rerank_answers(found: SearchResult, queries: Sequence[str], rerank: Rerank) -> SearchResult:
    """Return the answers in the order of the rerank stage's scores; equal scores keep their order.

    Args:
        found: Answers of the first stage.
        queries: Texts of the same queries.
        rerank: Function that scores the candidates of a query.

    Raises:
        SearchError: The rerank stage returns too few or too many scores, or a score that is not finite.
    """
    scores = np.full(found.rows.shape, -np.inf, np.float32)
    for query, hits, row in zip(queries, found, scores, strict=True):
        given = np.fromiter(rerank(query, hits), np.float32)
        if len(given) != len(hits) or not np.isfinite(given).all():
            raise SearchError(
                f"rerank: must return a finite score for each of the {len(hits)} candidates, found "
                f"{len(given)} scores, {np.count_nonzero(np.isfinite(given))} of them finite, for the query "
                f"{query!r:.60}"
            )
        row[: len(hits)] = given
    return replace(found, scores=scores).take(np.argsort(-scores, axis=1, kind="stable"))
