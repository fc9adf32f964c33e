"""Quality of scores on judged pairs: ROC-AUC, average precision, best F1, Spearman."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import EvaluationError

__all__ = [
    "MOST_GRADES",
    "PairMetrics",
    "average_precision",
    "best_f1",
    "checked_pairs",
    "is_positive",
    "roc_auc",
    "score_pairs",
    "spearman",
]

MOST_GRADES = 10
"""Most distinct values of graded relevance; with more, relevance is continuous, without a mean per level."""

_ROUNDING = 1e-6
"""A relevance of 0.7 stored as float32 is 0.69999999, and must still meet a threshold of 0.7."""


@dataclass(frozen=True)
class PairMetrics:
    """Quality of the scores of judged pairs; undefined figures are None."""

    roc_auc: float | None
    """Probability that a positive pair scores above a negative pair, ties count half; in [0, 1]."""
    average_precision: float | None
    """Area under the precision-recall steps; in [0, 1], `positive_share` for random scores."""
    best_f1: float | None
    """F1 at the best threshold; optimistic, because the threshold is chosen on the same pairs."""
    best_f1_threshold: float | None
    """Threshold of the best F1: pairs from this score on are positive; the highest of equal thresholds."""
    spearman: float | None
    """Rank correlation of scores and relevance, in [-1, 1]; only with more than two distinct levels."""
    pairs: int
    """Judged pairs."""
    positive_share: float
    """Positive pairs / pairs, in [0, 1]."""
    mean_score_per_grade: Mapping[str, float]
    """Mean score per relevance level, lowest first; empty for more than ten levels."""
    note: str | None
    """The reason for undefined figures, or None."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)


def score_pairs(
    scores: NDArray[Any], relevance: NDArray[Any], *, positive_threshold: float | None = None
) -> PairMetrics:
    """Return the metrics of `scores` compared with judgements.

    ROC-AUC, average precision and F1 need two classes. Relevance is split in two: a pair is
    positive if relevance > 0.5 or, with `positive_threshold`, if relevance >= threshold. ESCI's labels
    (E 1, S 0.1, C 0.01, I 0) thus become E against the rest. With only one class, the four figures are
    None and `note` gives the reason.

    Args:
        scores: (pairs,) finite, higher means more relevant.
        relevance: (pairs,) in [0, 1].
        positive_threshold: Lowest relevance of a positive pair; None means above 0.5.

    Raises:
        EvaluationError: If the arrays differ in length, are empty or not one-dimensional, a score is
            not finite, or a relevance is outside [0, 1].
    """
    scores, relevance = checked_pairs(scores, relevance)
    positive = is_positive(relevance, positive_threshold)
    f1, threshold = best_f1(scores, positive) or (None, None)
    grades = np.unique(relevance)
    notes = [_one_class_note(positive)]
    correlation = None
    if len(grades) > 2:
        correlation = spearman(scores, relevance)
        if correlation is None:
            notes.append(f"Spearman is undefined: all {len(scores)} scores are equal")
    return PairMetrics(
        roc_auc=roc_auc(scores, positive),
        average_precision=average_precision(scores, positive),
        best_f1=f1,
        best_f1_threshold=threshold,
        spearman=correlation,
        pairs=len(scores),
        positive_share=float(positive.mean()),
        mean_score_per_grade=_mean_score_per_grade(scores, relevance, grades),
        note="; ".join(note for note in notes if note) or None,
    )


def roc_auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Return the area under the ROC curve, or None with only one class.

    Args:
        scores: (pairs,) finite.
        positive: (pairs,) True for positive pairs.
    """
    if not _has_two_classes(positive):
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def average_precision(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Return sum over thresholds of (recall step * precision), or None with only one class.

    Args:
        scores: (pairs,) finite.
        positive: (pairs,) True for positive pairs.
    """
    if not _has_two_classes(positive):
        return None
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(positive, scores))


def best_f1(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Return the best F1 and the highest threshold that reaches it, or None with only one class.

    F1 = 2 * true positives / (predicted positive + positives); a pair is predicted positive if its
    score >= threshold. Every distinct score is tried as the threshold.

    Args:
        scores: (pairs,) finite.
        positive: (pairs,) True for positive pairs.
    """
    if not _has_two_classes(positive):
        return None
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # a threshold cannot fall between equal scores: only the last of a run of ties is a cut
    cuts = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    true_positives = np.cumsum(positive[order])[cuts]
    f1 = 2 * true_positives / ((cuts + 1) + positive.sum())
    best = int(np.argmax(f1))
    return float(f1[best]), float(ranked[cuts[best]])


def spearman(scores: NDArray[np.float64], relevance: NDArray[np.float64]) -> float | None:
    """Return Spearman's rank correlation (ties share their mean rank), or None if either is constant.

    Args:
        scores: (pairs,) finite.
        relevance: (pairs,) finite.
    """
    if np.ptp(scores) == 0 or np.ptp(relevance) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(scores, relevance).statistic)


def checked_pairs(
    scores: NDArray[Any], relevance: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scores and relevance as float64, (pairs,) each.

    Raises:
        EvaluationError: As for `score_pairs`.
    """
    scores = np.asarray(scores, dtype=np.float64)
    relevance = np.asarray(relevance, dtype=np.float64)
    if scores.ndim != 1 or scores.shape != relevance.shape:
        raise EvaluationError(
            f"scores and relevance must be one-dimensional and equally long, found shapes "
            f"{scores.shape} and {relevance.shape}; give a score and a relevance per pair"
        )
    if not len(scores):
        raise EvaluationError("there is no pair to evaluate; check the validation data and its filters")
    _refuse(~np.isfinite(scores), scores, "scores", "be finite", "the model or its precision is at fault")
    outside = ~((relevance >= 0) & (relevance <= 1))
    _refuse(outside, relevance, "relevance", "lie in [0, 1]", "map the labels to that range")
    return scores, relevance


def _refuse(bad: NDArray[np.bool_], values: NDArray[np.float64], name: str, rule: str, remedy: str) -> None:
    if bad.any():
        first = int(np.argmax(bad))
        raise EvaluationError(
            f"{name} must {rule}: {int(bad.sum())} of {len(values)} do not, the first at index {first} "
            f"({values[first]}); {remedy}"
        )


def is_positive(relevance: NDArray[np.float64], threshold: float | None) -> NDArray[np.bool_]:
    """Return the mask of positive pairs, (pairs,): relevance > 0.5, or >= `threshold` if it is given."""
    return relevance > 0.5 if threshold is None else relevance >= threshold - _ROUNDING


def _has_two_classes(positive: NDArray[np.bool_]) -> bool:
    return bool(positive.any() and not positive.all())


def _one_class_note(positive: NDArray[np.bool_]) -> str | None:
    if _has_two_classes(positive):
        return None
    which = "positive" if positive.all() else "negative"
    return f"ROC-AUC, average precision and F1 are undefined: all {len(positive)} pairs are {which}"


def _mean_score_per_grade(
    scores: NDArray[np.float64], relevance: NDArray[np.float64], grades: NDArray[np.float64]
) -> dict[str, float]:
    if len(grades) > MOST_GRADES:
        return {}
    return {f"{grade:g}": float(scores[relevance == grade].mean()) for grade in grades}
