"""Joint-pool protocol for question-answer pairs: each text ranks all others, and its partner is correct."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import EvaluationError
from aisle.evaluation.document import Estimate, JointPoolRow, SystemKind
from aisle.evaluation.significance import estimated_mean

__all__ = ["JointPool", "joint_pool", "joint_pool_row"]

_NORM_TOLERANCE = 1e-2
"""Half-precision encoders give norms within 1e-3 of 1; unnormalised embeddings are far from it."""


@dataclass(frozen=True)
class JointPool:
    """Figures of the joint-pool protocol for a set of question-answer pairs."""

    precision_at_1: float
    """Texts whose nearest neighbour is their partner / texts; in [0, 1]."""
    mrr: float
    """Mean of 1 / rank of the partner; in (0, 1]."""
    texts: int
    """Questions plus answers: 2n."""


def joint_pool(
    query_embeddings: NDArray[Any], answer_embeddings: NDArray[Any], *, chunk_rows: int = 512
) -> JointPool:
    """Return precision@1 and mean reciprocal rank over the pool of all questions and answers.

    Each of the 2n texts ranks the other 2n - 1 by cosine; the partner (the answer in the
    question's row, and the reverse) is the only correct answer. Equal cosines rank in pool order,
    questions first:

        rank = 1 + #(others above the partner) + #(others equal to it and earlier in the pool)

    Args:
        query_embeddings: (n, dim) float32, unit L2 norm.
        answer_embeddings: (n, dim) float32, unit L2 norm; row i belongs to question i.
        chunk_rows: Texts ranked at a time; affects memory (chunk_rows * 2n * 12 bytes), not the result.

    Raises:
        EvaluationError: If the shapes differ or are empty, a norm is not 1, or `chunk_rows` < 1.
    """
    ranks = _ranks(query_embeddings, answer_embeddings, chunk_rows)
    return JointPool(
        precision_at_1=float(np.mean(ranks == 1)), mrr=float(np.mean(1.0 / ranks)), texts=len(ranks)
    )


def joint_pool_row(
    name: str,
    kind: SystemKind,
    query_embeddings: NDArray[Any],
    answer_embeddings: NDArray[Any],
    *,
    resamples: int = 1000,
    seed: int = 0,
    chunk_rows: int = 512,
) -> JointPoolRow:
    """Return the figures of `joint_pool` with 95% bootstrap intervals.

    A question and its answer are drawn together, because they find each other for the same reasons;
    drawn separately, they would count as twice the evidence.

    Args:
        name: Name of the system.
        kind: Kind of the system, such as "tuned".
        query_embeddings: (n, dim) float32, unit L2 norm.
        answer_embeddings: (n, dim) float32, unit L2 norm; row i belongs to question i.
        resamples: Draws of n question-answer pairs, at least 1.
        seed: Seed of the draws; the same seed gives the same intervals.
        chunk_rows: As for `joint_pool`.

    Raises:
        EvaluationError: As for `joint_pool`; the message names the system.
    """
    try:
        ranks = _ranks(query_embeddings, answer_embeddings, chunk_rows)
    except EvaluationError as error:
        raise EvaluationError(f"{name}: {error}") from None

    def estimate(values: NDArray[np.float64]) -> Estimate:
        return estimated_mean(values.reshape(2, -1).mean(axis=0), resamples=resamples, seed=seed)

    return JointPoolRow(
        name=name,
        kind=kind,
        precision_at_1=estimate((ranks == 1).astype(np.float64)),
        mrr=estimate(1.0 / ranks),
        texts=len(ranks),
    )


def _ranks(queries: NDArray[Any], answers: NDArray[Any], chunk_rows: int) -> NDArray[np.intp]:
    """Return the rank of each text's partner, (2n,), questions first."""
    _check(queries, answers, chunk_rows)
    pool = np.concatenate([queries, answers]).astype(np.float64)
    partners = np.roll(np.arange(len(pool)), len(queries))
    return np.concatenate(
        [
            _partner_ranks(pool, partners, np.arange(start, min(start + chunk_rows, len(pool))))
            for start in range(0, len(pool), chunk_rows)
        ]
    )


def _partner_ranks(
    pool: NDArray[np.float64], partners: NDArray[np.intp], rows: NDArray[np.intp]
) -> NDArray[np.intp]:
    # a product summed in float32 rounds differently in chunks of another size (measured: 93% of
    # cosines differ in the last bit between chunks of 1 and of 140), which would decide near ties
    cosines = (pool[rows] @ pool.T).astype(np.float32)
    own = np.arange(len(rows))
    cosines[own, rows] = -np.inf
    partner = partners[rows]
    partner_cosine = cosines[own, partner][:, None]
    above = (cosines > partner_cosine).sum(axis=1)
    earlier = np.arange(len(pool)) < partner[:, None]
    tied_earlier = ((cosines == partner_cosine) & earlier).sum(axis=1)
    ranks: NDArray[np.intp] = 1 + above + tied_earlier
    return ranks


def _check(queries: NDArray[Any], answers: NDArray[Any], chunk_rows: int) -> None:
    if queries.ndim != 2 or queries.shape != answers.shape or not queries.size:
        raise EvaluationError(
            f"the joint pool needs one answer per question: embeddings of equal shape (n, dim) with "
            f"n >= 1, found {queries.shape} questions and {answers.shape} answers"
        )
    for name, embeddings in (("question", queries), ("answer", answers)):
        norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
        wrong = ~(np.abs(norms - 1) <= _NORM_TOLERANCE)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise EvaluationError(
                f"embeddings must have unit L2 norm: {int(wrong.sum())} {name} rows do not, the first is "
                f"row {first} with norm {norms[first]:.4g}; normalise them before evaluating"
            )
    if chunk_rows < 1:
        raise EvaluationError(f"chunk_rows must be at least 1, found {chunk_rows}")
