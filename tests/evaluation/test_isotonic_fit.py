"""Probabilities of relevance: isotonic regression, and a reliability curve from held-out queries."""

import numpy as np
import pytest

from aisle.errors import EvaluationError
from aisle.evaluation.isotonic_fit import fit_probabilities, reliability_curve


def isotonic_by_hand(scores, relevant):
    """Return the fitted value of each pair: max over starts of min over ends of the mean between them."""
    order = np.argsort(scores)
    values = relevant[order].astype(float)
    count = len(values)
    fitted = np.empty(count)
    fitted[order] = [
        max(min(values[i : j + 1].mean() for j in range(k, count)) for i in range(k + 1))
        for k in range(count)
    ]
    return fitted


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_are_those_of_isotonic_regression(seed):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(60) / 100
    relevant = rng.random(60) < scores

    fitted = fit_probabilities(scores, relevant, np.arange(60) // 6)

    np.testing.assert_allclose(
        fitted.probabilities_of(scores), isotonic_by_hand(scores, relevant), atol=1e-12
    )
    assert (fitted.pairs, fitted.relevant) == (60, relevant.sum())


def test_scores_that_differ_by_rounding_are_equal():
    scores = np.array([0.3, 0.3 + 1e-9, 0.3 - 1e-9, 0.1])
    relevant = np.array([False, True, False, False])

    fitted = fit_probabilities(scores, relevant, np.arange(4))

    assert fitted.scores == (0.1, 0.3)
    assert fitted.probabilities == (0.0, pytest.approx(1 / 3))


def test_a_pair_is_predicted_without_the_pairs_of_its_query():
    # The two products of each query differ from those of all others, and share their label.
    scores = np.repeat(np.arange(10) / 10, 2)
    relevant = np.repeat(np.arange(10) % 2 == 0, 2)

    by_query = fit_probabilities(scores, relevant, np.repeat(np.arange(10), 2))
    by_pair = fit_probabilities(scores, relevant, np.arange(20))

    assert by_query.brier > by_pair.brier


def test_two_folds_by_hand():
    # Learnt from query 1: 0.2 -> 0, 0.8 -> 1, and linear between. Query 0 is predicted 0.25 and 0.75.
    scores = np.array([0.35, 0.65, 0.2, 0.8])
    relevant = np.array([True, True, False, True])

    fitted = fit_probabilities(scores, relevant, np.array([0, 0, 1, 1]))

    # Query 1 is predicted from query 0, where all pairs are relevant: 1 and 1.
    assert [(part.predicted, part.relevant, part.pairs) for part in fitted.reliability] == [
        (pytest.approx(0.25), 1.0, 1),
        (pytest.approx(0.75), 1.0, 1),
        (1.0, 0.5, 2),
    ]
    assert fitted.brier == pytest.approx((0.75**2 + 0.25**2 + 1 + 0) / 4)
    assert fitted.calibration_error == pytest.approx((0.75 + 0.25 + 2 * 0.5) / 4)


def test_the_reliability_of_honest_scores_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    relevant = rng.random(20_000) < scores

    fitted = fit_probabilities(scores, relevant, np.arange(20_000) // 20)

    assert 8 <= len(fitted.reliability) <= 10
    assert sum(part.pairs for part in fitted.reliability) == 20_000
    for part in fitted.reliability:
        assert part.relevant == pytest.approx(part.predicted, abs=0.04)
    assert fitted.calibration_error < 0.02
    assert fitted.brier == pytest.approx(1 / 6, abs=0.01)  # mean of s (1 - s)


def test_bins_have_about_a_tenth_of_the_pairs_and_keep_equal_predictions_together():
    predicted = np.concatenate([np.zeros(57), np.full(3, 0.2), np.linspace(0.3, 0.9, 37), np.ones(3)])

    bins = reliability_curve(predicted, predicted > 0.5)

    assert [part.pairs for part in bins] == [57, 10, 10, 10, 13]
    assert bins[1].predicted == pytest.approx(predicted[57:67].mean())
    assert bins[-1].relevant == 1.0


def test_pairs_of_one_kind_have_a_constant_probability():
    fitted = fit_probabilities(np.array([0.1, 0.2, 0.4]), np.ones(3, bool), np.arange(3))

    assert fitted.probabilities_of([0.0, 0.3, 1.0]).tolist() == [1.0, 1.0, 1.0]
    assert fitted.brier == 0


def test_one_query_cannot_be_cross_validated():
    with pytest.raises(EvaluationError, match="two or more queries, found 1"):
        fit_probabilities(np.array([0.1, 0.2]), np.array([True, False]), np.array([7, 7]))
