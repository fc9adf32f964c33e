"""Relevance from clicks: simulated clicks with known truth, and values computed by hand."""

import numpy as np
import pytest

from aisle.data.click_counts import ClickCounts
from aisle.data.click_model import fit_click_model
from aisle.data.position_bias import Propensities, estimate_propensities
from aisle.errors import DataError

TRUE_PROPENSITIES = 1 / np.arange(1, 11) ** 0.8
PAIRS = 2000


def counted(item, position, impressions, clicks, purchases=None):
    clicks = np.asarray(clicks, float)
    bought = np.zeros_like(clicks) if purchases is None else np.asarray(purchases, float)
    return ClickCounts(np.asarray(item), np.asarray(position), np.asarray(impressions, float), clicks, bought)


def of_a_page(clicks, impressions, purchases=None):
    """Return the counts of items at a single position."""
    return counted(np.arange(len(clicks)), np.ones(len(clicks), int), impressions, clicks, purchases)


@pytest.fixture(scope="module")
def simulated():
    """Return the true attraction of pairs, and their clicks in lists that rank by it, with some noise."""
    rng = np.random.default_rng(0)
    attraction = rng.beta(2, 18, PAIRS)
    item = np.repeat(np.arange(PAIRS), 3)
    usual = np.argsort(np.argsort(-attraction)) % 10 + 1
    position = np.clip(usual[item] + rng.integers(-3, 4, len(item)), 1, 10)
    impressions = rng.poisson(15, len(item)) + 1
    clicks = rng.binomial(impressions, TRUE_PROPENSITIES[position - 1] * attraction[item])
    return attraction, counted(item, position, impressions, clicks)


def error(estimate, truth):
    return float(np.sqrt(np.mean((estimate - truth) ** 2)))


def test_estimate_beats_raw_rate_and_inverse_weights_and_is_near_the_best_possible(simulated):
    attraction, counts = simulated
    propensities = estimate_propensities(counts)
    model = fit_click_model(counts, propensities=propensities, strength=None, purchase_weight=5)
    true_weight = TRUE_PROPENSITIES[counts.position - 1]
    shown = counts.per_item(counts.impressions)
    raw = counts.per_item(counts.clicks) / shown
    inverse = counts.per_item(counts.clicks / true_weight) / shown
    # The error that remains if propensities and prior (a Beta distribution of 2 and 18) are known.
    clicked, examined = counts.per_item(counts.clicks), counts.per_item(counts.impressions * true_weight)
    best = (2 + clicked) / (20 + examined)

    found = error(model.rates(counts), attraction)
    assert found < 0.65 * error(raw, attraction)
    assert found < 0.65 * error(inverse, attraction)
    assert found < 1.06 * error(best, attraction)
    assert abs(float(np.mean(inverse - attraction))) < 0.005 < abs(float(np.mean(raw - attraction)))
    assert abs(float(np.mean(model.rates(counts) - attraction))) < 0.005
    assert model.strength == pytest.approx(20, rel=0.25)
    assert np.abs(propensities.values / TRUE_PROPENSITIES - 1).max() < 0.25


def test_propensities_of_exact_expectations_are_exact():
    attraction = np.array([0.5, 0.2, 0.4])
    item, position = np.array([0, 0, 1, 1, 2]), np.array([1, 2, 2, 5, 5])
    true = {1: 1.0, 2: 0.6, 5: 0.1}
    impressions = np.full(5, 100.0)
    clicks = impressions * attraction[item] * np.array([true[each] for each in position])
    found = estimate_propensities(counted(item, position, impressions, clicks))
    assert found.positions.tolist() == [1, 2, 5]
    assert found.values == pytest.approx([1, 0.6, 0.1], rel=1e-4)
    assert found.compared == 2
    # A position between has the propensity of the nearest above it, and so have those below the last.
    assert found.of(np.array([1, 3, 4, 9])).tolist() == pytest.approx([1, 0.6, 0.6, 0.1], rel=1e-4)


def test_pairs_at_single_positions_do_not_change_propensities():
    both = [[0, 0], [1, 2], [10, 10], [4, 2]]
    alone = [[*both[0], 1, 2], [*both[1], 1, 2], [*both[2], 50, 50], [*both[3], 40, 50]]
    assert estimate_propensities(counted(*both)).values.tolist() == [1, 0.5]
    assert estimate_propensities(counted(*alone)).values.tolist() == [1, 0.5]


def test_position_that_all_clicks_prefer_to_another_is_not_compared_with_it():
    # The item at 1 and 2 has clicks at 1 only, so the likelihood rises as the propensity of 2 falls to 0.
    item, position = [0, 0, 1, 1, 2, 2], [1, 2, 2, 3, 1, 4]
    counts = counted(item, position, [10] * 6, [4, 0, 4, 2, 6, 3])
    found = estimate_propensities(counts)
    assert found.positions.tolist() == [1, 4]
    assert found.values == pytest.approx([1, 0.5])
    both = counted(item, position, [10] * 6, [4, 1, 4, 2, 6, 3])
    assert estimate_propensities(both).values == pytest.approx([1, 0.25, 0.125, 0.5], rel=1e-4)


def test_position_without_clicks_has_the_propensity_of_the_nearest_above():
    counts = counted([0, 0, 0, 1, 1], [1, 2, 3, 1, 3], [10, 10, 99, 10, 99], [8, 4, 0, 2, 0])
    found = estimate_propensities(counts)
    assert found.positions.tolist() == [1, 2]
    assert found.of(np.array([2, 3])).tolist() == pytest.approx([0.5, 0.5])


def test_positions_that_cannot_be_compared_are_refused_with_the_way_out():
    with pytest.raises(DataError, match=r"2 positions, from 1 to 2.*--position_propensities"):
        estimate_propensities(counted([0, 1], [1, 2], [10, 10], [4, 2]))
    with pytest.raises(DataError, match=r"1 position, from 7 to 7"):
        estimate_propensities(counted([0, 1, 1], [7, 7, 7], [10, 10, 10], [4, 2, 1]))


def test_smoothing_purchases_and_scale_by_hand():
    counts = of_a_page([5, 0, 1], [10, 10, 20], [1, 0, 0])
    model = fit_click_model(
        counts, propensities=Propensities.none(), strength=10, purchase_weight=4, full_rate=0.5
    )
    mean = (6 + 4) / 40
    assert model.rates(counts).tolist() == [(9 + 10 * mean) / 20, 10 * mean / 20, (1 + 10 * mean) / 30]
    assert model.relevance(counts) == pytest.approx([1, 0.25, (1 + 10 * mean) / 15])


def test_default_scale_is_the_95th_percentile_of_clicked_pairs_and_given_propensities_weight_impressions():
    counts = counted(np.arange(101), np.full(101, 2), np.full(101, 200), np.arange(101))
    model = fit_click_model(
        counts, propensities=Propensities.given((1.0, 0.5)), strength=0, purchase_weight=0
    )
    assert model.rates(counts) == pytest.approx(np.arange(101) / 100)
    assert model.full_rate == pytest.approx(0.9505)  # of 0.01 to 1, the pairs with clicks
    assert model.relevance(counts)[[0, 19, 96, 100]] == pytest.approx([0, 0.19 / 0.9505, 1, 1])


@pytest.mark.parametrize("share", [0.5, 0.04, 0.001])
@pytest.mark.parametrize("strength", [None, 0, 20, 1e9])
@pytest.mark.parametrize("full_rate", [None, 0.001])
def test_pairs_without_clicks_are_never_positives(share, strength, full_rate):
    rng = np.random.default_rng(0)
    impressions = rng.geometric(1 / 30, 4000)
    counts = of_a_page(rng.binomial(impressions, np.where(rng.random(4000) < share, 0.2, 0)), impressions)
    model = fit_click_model(
        counts, propensities=Propensities.none(), strength=strength, purchase_weight=5, full_rate=full_rate
    )
    relevance = model.relevance(counts)
    assert relevance[counts.clicks == 0].max() <= 0.5
    rarely = of_a_page([0, 0], [1, 1], [0, 1])  # of other data: a pair with a purchase may be a positive
    assert model.relevance(rarely)[0] <= 0.5
    if full_rate is None:
        assert relevance.max() == 1
        assert model.relevance(rarely)[1] > 0.5


def test_scale_is_at_least_the_mean_rate_if_few_pairs_have_most_impressions():
    counts = of_a_page([500_000, *[1] * 99], [1_000_000, *[100] * 99])
    model = fit_click_model(counts, propensities=Propensities.none(), strength=0, purchase_weight=0)
    assert model.full_rate == model.rate == pytest.approx(0.495, rel=0.01)
    assert model.relevance(counts)[:2] == pytest.approx([1, 0.02], rel=0.02)


@pytest.mark.parametrize("size", [1e-6, 0.3, 1, 1e15])
@pytest.mark.parametrize("position", [1, 2, 1_000_000])
@pytest.mark.parametrize("known", [(1.0,), (0.5, 0.5), (1.0, 1e-6)])
@pytest.mark.parametrize(("strength", "weight"), [(0, 5), (20, 0), (1e9, 1e6)])
def test_counts_of_any_size_have_a_finite_relevance(size, position, known, strength, weight):
    shown = np.array([1, 1, 2]) * size
    counts = counted([0, 1, 2], [position] * 3, shown, shown * [0, 0.5, 1], shown * [0, 0, 0.5])
    for full_rate in (None, 1e-300, 1e300):
        try:
            relevance = fit_click_model(
                counts,
                propensities=Propensities.given(known),
                strength=strength,
                purchase_weight=weight,
                full_rate=full_rate,
            ).relevance(counts)
        except DataError as error:  # very few impressions against a strong prior
            if "are equal" not in str(error):
                raise
        else:
            assert np.isfinite(relevance).all()
            assert sorted(relevance) == relevance.tolist()
            assert relevance[0] <= 0.5


def test_equal_propensities_change_nothing():
    counts = counted([0, 0, 1, 2], [1, 3, 2, 3], [10, 20, 30, 40], [5, 2, 3, 1])
    given = {"strength": 7, "purchase_weight": 0}
    equal, none = (
        fit_click_model(counts, propensities=found, **given).relevance(counts)
        for found in (Propensities.given((1.0, 1.0, 1.0)), Propensities.none())
    )
    assert equal == pytest.approx(none)


@pytest.mark.parametrize("impressions", [[10], [1, 1, 1], [0.2, 0.2, 0.2]])
def test_pairs_that_cannot_differ_by_more_than_chance_are_refused(impressions):
    counts = of_a_page([impressions[0], *[0] * (len(impressions) - 1)], impressions)
    with pytest.raises(DataError, match="no more than by chance"):
        fit_click_model(counts, propensities=Propensities.none(), strength=None, purchase_weight=0)


def test_equal_rates_are_refused_unless_the_scale_is_given():
    counts = of_a_page([1, 2, 4], [10, 20, 40])
    given = {"propensities": Propensities.none(), "strength": 20.0, "purchase_weight": 0}
    with pytest.raises(DataError, match=r"all 3 pairs are equal \(0.1\).*--label_max"):
        fit_click_model(counts, **given)
    assert fit_click_model(counts, **given, full_rate=0.2).relevance(counts) == pytest.approx([0.5] * 3)


def test_clicks_without_information_are_refused():
    with pytest.raises(DataError, match=r"no clicks in 20 impressions"):
        fit_click_model(
            of_a_page([0, 0], [10, 10]), propensities=Propensities.none(), strength=None, purchase_weight=5
        )
    with pytest.raises(DataError, match=r"no more than by chance.*--click_prior_strength"):
        fit_click_model(
            of_a_page([1, 1], [10, 10]), propensities=Propensities.none(), strength=None, purchase_weight=5
        )
