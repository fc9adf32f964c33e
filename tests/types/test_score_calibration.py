"""Probability by score and score by probability, on numbers computed by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from aisle.types.score_calibration import OperatingPoint, ScoreCalibration

THREE_POINTS = ScoreCalibration(
    scores=(0.0, 0.5, 0.75, 1.0),
    probabilities=(0.1, 0.3, 0.3, 0.9),
    pairs=10,
    relevant=4,
    calibration_error=0.0,
    brier=0.0,
    reliability=(),
)


def test_probabilities_are_interpolated_and_constant_outside():
    scores = [-3.0, 0.0, 0.25, 0.6, 0.875, 1.0, 7.0]

    assert THREE_POINTS.probabilities_of(scores) == pytest.approx([0.1, 0.1, 0.2, 0.3, 0.6, 0.9, 0.9])


@pytest.mark.parametrize(
    ("p", "score"),
    [
        (0.05, -math.inf),
        (0.1, -math.inf),
        (0.2, 0.25),
        (0.3, 0.5),
        (0.6, 0.875),
        (0.9, 1.0),
        (0.91, math.inf),
    ],
)
def test_the_lowest_score_of_a_probability(p, score):
    assert THREE_POINTS.score_at(p) == pytest.approx(score)


def test_the_highest_p_that_leaves_most_queries_a_product():
    points = [OperatingPoint(p, 0.0, answered, 1.0) for p, answered in ((0.2, 1.0), (0.4, 0.96), (0.6, 0.5))]
    calibration = replace(THREE_POINTS, points=tuple(points))

    assert [calibration.highest_p(answered=share) for share in (1.0, 0.96, 0.95, 0.5)] == [0.2, 0.4, 0.4, 0.6]
    assert THREE_POINTS.highest_p(answered=0.1) is None


def test_scores_from_the_threshold_on_are_exactly_those_with_the_probability():
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = np.unique(rng.random(6))
        calibration = ScoreCalibration(
            scores=tuple(points.tolist()),
            probabilities=tuple(np.sort(rng.choice([0.0, 0.2, 0.5, rng.random()], len(points))).tolist()),
            pairs=1,
            relevant=1,
            calibration_error=0.0,
            brier=0.0,
            reliability=(),
        )
        scores, p = rng.uniform(-0.2, 1.2, 400), rng.random()

        reached = calibration.probabilities_of(scores) >= p

        assert (reached == (scores >= calibration.score_at(p))).all()
