"""A run: the ranking of every query, by ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aisle.errors import EvaluationError

__all__ = ["to_run"]


def to_run(
    query_ids: Sequence[str],
    product_ids: Sequence[str],
    rows: Iterable[Iterable[int]],
    scores: Iterable[Iterable[float]],
) -> dict[str, dict[str, float]]:
    """Return {query id: {product id: score}} from rows and scores; rows below 0 are padding.

    Args:
        query_ids: (queries,) distinct.
        product_ids: (products,) id of each row.
        rows: per query, rows of the ranked products.
        scores: per query, their scores, higher is better.

    Raises:
        EvaluationError: the lengths differ, or a query id comes twice.
    """
    rows, scores = list(rows), list(scores)
    if not len(query_ids) == len(rows) == len(scores):
        raise EvaluationError(
            f"a run needs one ranking per query, found {len(query_ids)} query ids, {len(rows)} lists of rows "
            f"and {len(scores)} lists of scores"
        )
    if len(set(query_ids)) < len(query_ids):
        twice = next(query for i, query in enumerate(query_ids) if query in query_ids[:i])
        raise EvaluationError(f"query ids must be distinct, found {twice!r} twice")
    return {
        query_id: {
            product_ids[row]: float(score)
            for row, score in zip(query_rows, query_scores, strict=True)
            if row >= 0
        }
        for query_id, query_rows, query_scores in zip(query_ids, rows, scores, strict=True)
    }
