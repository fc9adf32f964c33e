"""Compare systems on the same judged pairs: figures with intervals, curves, histograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import EvaluationError
from aisle.evaluation.document import Curve, Estimate, Histogram, Pairs, PairsRow, SystemKind
from aisle.evaluation.pair_intervals import PairIntervals, pair_intervals
from aisle.evaluation.pair_metrics import (
    MOST_GRADES,
    PairMetrics,
    checked_pairs,
    is_positive,
    roc_auc,
    score_pairs,
)

__all__ = ["compare_pairs"]

_CURVE_POINTS = 400
_BINS = 40


def compare_pairs(
    scores: Mapping[str, NDArray[Any]],
    relevance: NDArray[Any],
    *,
    kinds: Mapping[str, SystemKind],
    positive_threshold: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Pairs:
    """Return the figures of `score_pairs` per system with 95% intervals, curves and histograms.

    Intervals are percentile bootstrap intervals over pairs, see `pair_intervals`: pairs are drawn,
    not queries, so they are too narrow if queries have many pairs. Above 100,000 pairs fewer
    resamples are drawn. With only one class, ROC-AUC, average precision and F1 are None, both
    curves are empty, and `note` gives the reason.

    With three to ten relevance levels, the highest is also compared with each other level. With more
    than ten, relevance counts as continuous: there are no figures by level, and the histogram counts
    "positive" and "negative" pairs.

    Args:
        scores: {system: (pairs,) finite, higher means more relevant}, in the order of the rows.
        relevance: (pairs,) in [0, 1].
        kinds: {system: its kind}.
        positive_threshold: Lowest relevance of a positive pair; None means above 0.5.
        resamples: Bootstrap draws.
        seed: Seed of the draws; the same seed gives the same intervals.

    Raises:
        EvaluationError: If there is no system, `kinds` misses a system, `resamples` is below 1, or
            `score_pairs` refuses scores or relevance; the message names the system.
    """
    if not scores:
        raise EvaluationError("there is no system to evaluate; give scores of at least one system")
    if resamples < 1:
        raise EvaluationError(f"resamples must be at least 1, found {resamples}")
    checked: dict[str, NDArray[np.float64]] = {}
    grades = np.asarray(relevance, dtype=np.float64)
    for name, values in scores.items():
        if name not in kinds:
            raise EvaluationError(f"kinds must name every system, {name!r} is missing")
        try:
            checked[name], grades = checked_pairs(values, relevance)
        except EvaluationError as error:
            raise EvaluationError(f"{name}: {error}") from None
    positive = is_positive(grades, positive_threshold)
    figures = {
        name: score_pairs(values, grades, positive_threshold=positive_threshold)
        for name, values in checked.items()
    }
    lowest, highest = min(map(np.min, checked.values())), max(map(np.max, checked.values()))
    edges = np.histogram_bin_edges(np.array([lowest, highest]), bins=_BINS)
    return Pairs(
        rows=tuple(
            PairsRow(
                name=name,
                kind=kinds[name],
                metrics=_metrics(figures[name], intervals),
                best_f1_threshold=figures[name].best_f1_threshold,
                by_grade=_by_grade(values, grades, intervals),
                roc=_roc(values, positive),
                precision_recall=_precision_recall(values, positive),
                histogram=_histogram(values, grades, positive, edges),
            )
            for name, values in checked.items()
            for intervals in [pair_intervals(values, grades, positive, resamples=resamples, seed=seed)]
        ),
        pairs=len(grades),
        positive_share=float(positive.mean()),
        note=_note({name: found.note for name, found in figures.items()}),
    )


def _metrics(found: PairMetrics, intervals: PairIntervals) -> dict[str, Estimate]:
    return {name: _estimate(getattr(found, name), interval) for name, interval in intervals.figures.items()}


def _estimate(value: float | None, interval: tuple[float | None, float | None]) -> Estimate:
    return Estimate(None) if value is None else Estimate(value, *interval)


def _by_grade(
    scores: NDArray[np.float64], relevance: NDArray[np.float64], intervals: PairIntervals
) -> dict[str, Estimate]:
    """Return ROC-AUC of the highest relevance level against each other level, best level first."""
    highest = relevance.max()
    found = {}
    for grade, interval in sorted(intervals.by_grade.items(), reverse=True):
        among = (relevance == highest) | (relevance == grade)
        found[f"{grade:g}"] = _estimate(roc_auc(scores[among], relevance[among] == highest), interval)
    return found


def _roc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Curve:
    from sklearn.metrics import roc_curve

    if positive.all() or not positive.any():
        return Curve((), ())
    false_positive_rate, true_positive_rate, _ = roc_curve(positive, scores)
    return _thinned(false_positive_rate, true_positive_rate)


def _precision_recall(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Curve:
    from sklearn.metrics import precision_recall_curve

    if positive.all() or not positive.any():
        return Curve((), ())
    precision, recall, _ = precision_recall_curve(positive, scores)
    return _thinned(recall[::-1], precision[::-1])


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> Curve:
    """Return at most 400 points of a curve, evenly spread along its length, including both ends."""
    if len(x) > _CURVE_POINTS:
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _CURVE_POINTS)))
        x, y = x[kept], y[kept]
    return Curve(tuple(x.tolist()), tuple(y.tolist()))


def _histogram(
    scores: NDArray[np.float64],
    relevance: NDArray[np.float64],
    positive: NDArray[np.bool_],
    edges: NDArray[np.float64],
) -> Histogram:
    grades = np.unique(relevance)[::-1]
    if len(grades) <= MOST_GRADES:
        parts = {f"{grade:g}": scores[relevance == grade] for grade in grades}
    else:
        parts = {"positive": scores[positive], "negative": scores[~positive]}
    counts = {label: tuple(np.histogram(part, edges)[0].tolist()) for label, part in parts.items()}
    return Histogram(tuple(edges.tolist()), counts)


def _note(notes: Mapping[str, str | None]) -> str | None:
    """Join the systems' notes; if all notes are equal, return one."""
    if len(set(notes.values())) == 1:
        return next(iter(notes.values()))
    return "; ".join(f"{name}: {note}" for name, note in notes.items() if note)
