import itertools

import numpy as np
import pytest
import scipy.stats

from aisle.errors import EvaluationError
from aisle.evaluation import significance
from aisle.evaluation.significance import (
    bootstrap_interval,
    estimated_mean,
    holm,
    paired_differences,
    randomisation_p,
)


def _exact_p(differences):
    """Enumerate every sign pattern in plain Python."""
    observed = abs(sum(differences))
    sums = [
        sum(sign * d for sign, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(abs(total) >= observed - 1e-9 for total in sums) / len(sums)


def test_interval_of_the_mean_has_the_width_of_the_normal_interval():
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)

    low, high = bootstrap_interval(values)

    expected = 1.96 * values.std() / 20
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.002)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_interval_is_scipy_s_percentile_bootstrap(confidence):
    values = np.random.default_rng(1).integers(0, 3, 50) / 2

    found = bootstrap_interval(values, confidence=confidence, resamples=300, seed=7)

    expected = scipy.stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=300,
        method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval
    assert found == pytest.approx(tuple(expected), abs=1e-12)


def test_the_interval_depends_on_the_seed():
    values = np.random.default_rng(2).random(60)

    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_interval_of_equal_values_is_a_point():
    assert bootstrap_interval(np.full(5, 0.25)) == (0.25, 0.25)


def test_interval_covers_the_true_mean_as_often_as_its_confidence():
    generator = np.random.default_rng(3)
    intervals = [bootstrap_interval(generator.random(50), resamples=200, seed=i) for i in range(300)]

    assert 0.90 <= np.mean([low <= 0.5 <= high for low, high in intervals]) <= 0.98


def test_one_value_has_a_mean_without_an_interval():
    found = estimated_mean(np.array([0.5]))

    assert (found.value, found.low, found.high) == (0.5, None, None)


def test_an_estimated_mean_has_the_bootstrap_s_interval():
    values = np.random.default_rng(4).random(30)

    found = estimated_mean(values, resamples=100, seed=5)

    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == bootstrap_interval(values, resamples=100, seed=5)


@pytest.mark.parametrize("function", [bootstrap_interval, randomisation_p, estimated_mean])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.empty(0), r"at least one query, found shape \(0,\)"),
        (np.ones((2, 2)), r"found shape \(2, 2\)"),
        (np.array([0.0, np.nan]), "finite, found nan at index 1"),
    ],
)
def test_values_without_a_mean_are_refused(function, values, message):
    with pytest.raises(EvaluationError, match=message):
        function(values)


@pytest.mark.parametrize("function", [bootstrap_interval, randomisation_p])
def test_zero_resamples_are_refused(function):
    with pytest.raises(EvaluationError, match="resamples must be at least 1, found 0"):
        function(np.ones(3), resamples=0)


def test_confidence_is_a_share():
    with pytest.raises(EvaluationError, match="confidence must lie between 0 and 1, found 95"):
        bootstrap_interval(np.ones(3), confidence=95)


def test_p_of_few_queries_equals_the_hand_computed_one():
    # all 3 better: of the 8 patterns, only all better and all worse are as far from 0
    assert randomisation_p(np.array([0.1, 0.2, 0.3])) == 2 / 8
    # the sums of +-1 +-2 +-3 are 6 4 2 0 0 -2 -4 -6; those of size 4 or more are 4
    assert randomisation_p(np.array([-1.0, 2.0, 3.0])) == 4 / 8
    assert randomisation_p(np.array([1.0, -1.0])) == 1.0
    assert randomisation_p(np.array([0.7])) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_exact_p_agrees_with_counting_and_with_scipy_ties_and_zeros_included(seed):
    generator = np.random.default_rng(seed)
    differences = generator.integers(-2, 4, 11) / 10

    expected = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert randomisation_p(differences) == pytest.approx(expected, abs=1e-12)
    assert randomisation_p(differences) == pytest.approx(_exact_p(differences.tolist()), abs=1e-12)


def test_drawn_p_is_near_the_exact_one():
    differences = np.random.default_rng(0).normal(0.2, 0.5, 13)

    exact = randomisation_p(differences, resamples=2**13)
    drawn = [randomisation_p(differences, resamples=2**13 - 1, seed=seed) for seed in range(5)]

    assert exact == _exact_p(differences.tolist())
    assert len(set(drawn)) > 1
    assert drawn == pytest.approx([exact] * 5, abs=4 * (exact * (1 - exact) / 2**13) ** 0.5)


def test_drawn_p_of_many_queries_agrees_with_scipy():
    differences = np.random.default_rng(1).normal(0.04, 0.3, 200)

    found = randomisation_p(differences)

    expected = scipy.stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    ).pvalue
    assert 0.01 < expected < 0.5
    assert found == pytest.approx(expected, abs=0.02)


def test_p_is_never_zero():
    assert randomisation_p(np.ones(500), resamples=999) == 1 / 1000


def test_queries_without_a_difference_change_nothing():
    differences = np.random.default_rng(2).normal(0.1, 0.3, 60)

    assert randomisation_p(np.append(np.zeros(40), differences)) == randomisation_p(differences)
    assert randomisation_p(np.zeros(40)) == 1.0


def test_p_does_not_depend_on_the_sign_or_the_scale():
    differences = np.random.default_rng(3).normal(0.1, 0.5, 60)

    assert randomisation_p(-differences) == randomisation_p(differences)
    assert randomisation_p(1e-3 * differences) == randomisation_p(differences)


@pytest.mark.parametrize("count", [10, 70])
@pytest.mark.parametrize("signs", [1, 130, 1000])
def test_chunks_do_not_change_p(count, signs, monkeypatch):
    differences = np.random.default_rng(4).normal(0.1, 0.5, count)
    whole = randomisation_p(differences, resamples=2000)

    monkeypatch.setattr(significance, "_CHUNK_SIGNS", signs)

    assert randomisation_p(differences, resamples=2000) == whole


def test_a_planted_difference_is_significant_and_noise_is_not():
    noise = np.random.default_rng(5).normal(0, 0.2, 400)
    noise -= noise.mean()

    assert randomisation_p(noise + 0.05) < 0.001
    assert randomisation_p(noise + 0.005) > 0.3


def test_five_percent_of_pure_noise_is_significant():
    generator = np.random.default_rng(6)
    p_values = [randomisation_p(generator.normal(0, 1, 30), resamples=400, seed=i) for i in range(400)]

    assert 0.025 <= np.mean(np.array(p_values) < 0.05) <= 0.08


def test_holm_equals_the_hand_computed_values():
    # sorted .01 .02 .03 .04: times 4 3 2 1 is .04 .06 .06 .04, and the last may not fall below .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02, 0.02]) == [0.04, 0.04]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_holm_refuses_values_outside_zero_to_one(wrong):
    with pytest.raises(EvaluationError, match=r"must lie in \[0, 1\]"):
        holm([0.5, wrong])


def test_differences_by_rounding_are_none():
    before = np.array([0.1 + 0.2, 0.5, 0.25])

    assert paired_differences(before, np.array([0.3, 0.25, 0.5])).tolist() == [0.0, -0.25, 0.25]
