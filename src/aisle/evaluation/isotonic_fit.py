"""Fit scores to probabilities of relevance by isotonic regression, with a cross-validated reliability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import EvaluationError
from aisle.types.score_calibration import ReliabilityBin, ScoreCalibration

__all__ = ["calibration_error", "fit_probabilities", "reliability_curve"]

FOLDS = 5
BINS = 10
"""Most bins of the reliability curve. Each has a tenth of the pairs: a bin of few pairs shows chance."""

DECIMALS = 5
"""Scores are rounded before they are fitted: a cosine through the graph differs by up to 1e-6, and there must
be no step between scores that differ by rounding only."""


def fit_probabilities(
    scores: NDArray[Any], relevant: NDArray[np.bool_], query_of: NDArray[np.int64]
) -> ScoreCalibration:
    """Return the probability of relevance by score: the rising function with the smallest squared error.

    Isotonic regression: Zadrozny, Elkan, Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates (KDD 2002). Its points come from all pairs. The reliability curve and both errors come from
    `FOLDS` folds of queries: the probability of a pair is predicted without the pairs of its query, whose
    scores depend on each other. With fewer queries, each query is a fold.

    Args:
        scores: (pairs,) finite; higher means more relevant.
        relevant: (pairs,) whether the product is relevant for the query.
        query_of: (pairs,) number of the query of each pair.

    Raises:
        EvaluationError: There are pairs of fewer than two queries.
    """
    from sklearn.model_selection import GroupKFold

    rounded = np.round(scores.astype(np.float64), DECIMALS).astype(np.float64)
    queries = len(np.unique(query_of))
    if queries < 2:
        raise EvaluationError(
            f"calibration needs judged products of two or more queries, found {queries}; judge more queries"
        )
    predicted = np.empty(len(rounded))
    for train, held_out in GroupKFold(min(FOLDS, queries)).split(rounded, groups=query_of):
        predicted[held_out] = np.interp(rounded[held_out], *_isotonic(rounded[train], relevant[train]))
    reliability = reliability_curve(predicted, relevant)
    points, probabilities = _isotonic(rounded, relevant)
    return ScoreCalibration(
        scores=tuple(points.tolist()),
        probabilities=tuple(probabilities.tolist()),
        pairs=len(rounded),
        relevant=int(relevant.sum()),
        calibration_error=calibration_error(reliability),
        brier=float(np.mean((predicted - relevant) ** 2)),
        reliability=reliability,
    )


def _isotonic(
    scores: NDArray[np.float64], relevant: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points of the fitted function: rising scores, and their probabilities."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, relevant)
    return fitted.X_thresholds_, fitted.y_thresholds_


def reliability_curve(
    predicted: NDArray[np.float64], relevant: NDArray[np.bool_]
) -> tuple[ReliabilityBin, ...]:
    """Return bins of similar predicted probability and of about equally many pairs, from low to high.

    Equal predictions share a bin, so a bin may have more pairs.

    Args:
        predicted: (pairs,) probabilities in [0, 1].
        relevant: (pairs,) whether the product is relevant.
    """
    _, group_of, pairs = np.unique(predicted, return_inverse=True, return_counts=True)
    bin_of = _bins(pairs.tolist(), fewest=len(predicted) / BINS)[group_of]
    return tuple(
        ReliabilityBin(float(predicted[within].mean()), float(relevant[within].mean()), int(within.sum()))
        for within in (bin_of == number for number in range(bin_of.max() + 1))
    )


def _bins(pairs: Sequence[int], *, fewest: float) -> NDArray[np.int64]:
    """Return the bin of each group of pairs: consecutive groups that have `fewest` pairs together.

    If the last groups have less than half of `fewest`, they belong to the bin before.
    """
    bin_of, number, within = [], 0, 0
    for count in pairs:
        bin_of.append(number)
        within += count
        if within >= fewest:
            number, within = number + 1, 0
    bins = np.array(bin_of, np.int64)
    return np.minimum(bins, number - 1) if number and within < fewest / 2 else bins


def calibration_error(reliability: Sequence[ReliabilityBin]) -> float:
    """Return the mean distance of predicted probability and relevant share, weighted by pairs."""
    pairs = sum(part.pairs for part in reliability)
    return sum(part.pairs * abs(part.predicted - part.relevant) for part in reliability) / pairs
