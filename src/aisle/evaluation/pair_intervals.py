"""Bootstrap intervals of the figures on judged pairs; the scores are sorted once for all resamples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aisle.evaluation.pair_metrics import MOST_GRADES

__all__ = ["PairIntervals", "pair_intervals"]

_FULL_WORK = 100_000
"""Pairs up to which all requested resamples are drawn; 1,000 resamples then take about 10 s."""
_FEWEST_RESAMPLES = 200
"""With 200 resamples, 5 lie beyond each end of a 95% interval."""

_FIGURES = ("roc_auc", "average_precision", "best_f1", "spearman")

Interval = tuple[float | None, float | None]
Counts = NDArray[np.intp]
"""Number of pairs with each distinct score, (levels,), best score first."""


@dataclass(frozen=True)
class PairIntervals:
    """95% intervals; (None, None) if the figure is undefined in every resample."""

    figures: Mapping[str, Interval]
    """"roc_auc", "average_precision", "best_f1", "spearman"."""
    by_grade: Mapping[float, Interval]
    """ROC-AUC of the highest relevance level against each other level."""


def pair_intervals(
    scores: NDArray[np.float64],
    relevance: NDArray[np.float64],
    positive: NDArray[np.bool_],
    *,
    resamples: int,
    seed: int,
) -> PairIntervals:
    """Return percentile bootstrap intervals over pairs.

    Pairs are drawn with replacement, independent of query and relevance. Resamples in which a figure
    is undefined, for example without a positive pair, are left out of that figure's interval. Above
    100,000 pairs fewer resamples are drawn, in inverse proportion, but at least 200. The best F1 of
    each resample uses its best threshold.

    The scores are sorted once. A resample only counts its pairs, one resample at a time, and the
    figures follow from the counts per distinct score and relevance level.

    Args:
        scores: Finite scores, (pairs,), at least one.
        relevance: Finite relevance, (pairs,).
        positive: Mask of the positive pairs, (pairs,).
        resamples: Number of draws, at least 1.
        seed: Seed of the draws; the same seed gives the same intervals, and the same draws for every system.
    """
    grades, first_of_grade, grade_of = np.unique(relevance, return_index=True, return_inverse=True)
    levels, level_of = np.unique(-scores, return_inverse=True)  # best first
    graded = len(grades) <= MOST_GRADES
    label_of = grade_of if graded else positive.astype(np.intp)
    is_positive = positive[first_of_grade] if graded else np.array([False, True])
    cell_of = label_of * len(levels) + level_of
    others = range(len(grades) - 1) if graded and len(grades) > 2 else range(0)
    found: dict[str, list[float]] = {name: [] for name in _FIGURES}
    by_grade: dict[int, list[float]] = {grade: [] for grade in others}
    generator = np.random.default_rng(seed)
    for _ in range(_affordable(resamples, len(scores))):
        drawn = generator.integers(0, len(scores), len(scores))
        cells = np.bincount(cell_of[drawn], minlength=len(is_positive) * len(levels))
        counts = cells.reshape(len(is_positive), len(levels))
        for name, value in _figures(counts[is_positive].sum(axis=0), counts[~is_positive].sum(axis=0)):
            found[name].append(value)
        if len(grades) > 2:
            found["spearman"].extend(_spearman(level_of[drawn], grade_of[drawn]))
        for grade in others:
            if counts[-1].any() and counts[grade].any():
                by_grade[grade].append(_roc_auc(counts[-1], counts[grade]))
    return PairIntervals(
        figures={name: _interval(values) for name, values in found.items()},
        by_grade={float(grades[grade]): _interval(values) for grade, values in by_grade.items()},
    )


def _affordable(resamples: int, pairs: int) -> int:
    return min(resamples, max(_FEWEST_RESAMPLES, resamples * _FULL_WORK // pairs))


def _interval(values: Sequence[float]) -> Interval:
    if not values:
        return None, None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _figures(positives: Counts, negatives: Counts) -> Iterator[tuple[str, float]]:
    if positives.any() and negatives.any():
        yield "roc_auc", _roc_auc(positives, negatives)
        yield "average_precision", _average_precision(positives, negatives)
        yield "best_f1", _best_f1(positives, negatives)


def _roc_auc(positives: Counts, negatives: Counts) -> float:
    above = (
        np.cumsum(positives) - positives / 2
    )  # positives with a higher score, and half of those with the same
    return float(above @ negatives / (positives.sum() * negatives.sum()))


def _average_precision(positives: Counts, negatives: Counts) -> float:
    found = np.cumsum(positives)
    precision = found / np.maximum(found + np.cumsum(negatives), 1)
    return float(precision @ positives / found[-1])


def _best_f1(positives: Counts, negatives: Counts) -> float:
    found = np.cumsum(positives)
    return float((2 * found / (found + np.cumsum(negatives) + found[-1])).max())


def _spearman(level_of: Counts, grade_of: Counts) -> Iterator[float]:
    if np.ptp(level_of) and np.ptp(grade_of):
        # score levels count from the best score, relevance levels from the lowest
        yield -float(np.corrcoef(_mean_ranks(level_of), _mean_ranks(grade_of))[0, 1])


def _mean_ranks(level_of: Counts) -> NDArray[np.float64]:
    counts = np.bincount(level_of)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[level_of]
    return ranks
