import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import (
    auc,
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from aisle.errors import EvaluationError
from aisle.evaluation import pair_intervals
from aisle.evaluation.document import Curve, Estimate
from aisle.evaluation.pair_comparison import compare_pairs
from aisle.evaluation.pair_metrics import score_pairs

ESCI = [0.0, 0.01, 0.1, 1.0]
KINDS = {"base": "base", "tuned": "tuned"}


def _case(pairs=300, decimals=1, seed=0):
    generator = np.random.default_rng(seed)
    relevance = generator.choice(ESCI, pairs)
    return np.round(generator.normal(relevance, 1.0), decimals), relevance


def _row(scores, relevance, **settings):
    return compare_pairs({"base": scores}, relevance, kinds=KINDS, **settings).rows[0]


def test_figures_are_those_of_score_pairs():
    scores, relevance = _case()
    expected = score_pairs(scores, relevance)

    found = compare_pairs({"base": scores, "tuned": -scores}, relevance, kinds=KINDS, resamples=50)

    row = found.rows[0]
    assert {name: estimate.value for name, estimate in row.metrics.items()} == {
        "roc_auc": expected.roc_auc,
        "average_precision": expected.average_precision,
        "best_f1": expected.best_f1,
        "spearman": expected.spearman,
    }
    assert row.best_f1_threshold == expected.best_f1_threshold
    assert [(row.name, row.kind) for row in found.rows] == [("base", "base"), ("tuned", "tuned")]
    assert (found.pairs, found.positive_share, found.note) == (300, expected.positive_share, None)
    assert found.rows[1].metrics["roc_auc"].value == pytest.approx(1 - expected.roc_auc)


@pytest.mark.parametrize("decimals", [1, 6])
def test_intervals_equal_resampling_with_scikit_learn_and_scipy(decimals):
    scores, relevance = _case(80, decimals)
    positive = relevance > 0.5
    generator = np.random.default_rng(4)
    resampled = {"roc_auc": [], "average_precision": [], "best_f1": [], "spearman": []}
    exact_against_substitute = []
    for _ in range(20):
        drawn = generator.integers(0, 80, 80)
        p, s, r = positive[drawn], scores[drawn], relevance[drawn]
        resampled["roc_auc"].append(roc_auc_score(p, s))
        resampled["average_precision"].append(average_precision_score(p, s))
        resampled["best_f1"].append(max(f1_score(p, s >= threshold) for threshold in np.unique(s)))
        resampled["spearman"].append(spearmanr(s, r).statistic)
        among = (r == 1) | (r == 0.1)
        exact_against_substitute.append(roc_auc_score(p[among], s[among]))

    row = _row(scores, relevance, resamples=20, seed=4)

    for name, values in resampled.items():
        found = row.metrics[name]
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)
    found = row.by_grade["0.1"]
    expected = tuple(np.quantile(exact_against_substitute, [0.025, 0.975]))
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_the_highest_relevance_level_is_compared_with_each_other_level():
    scores, relevance = _case()

    row = _row(scores, relevance, resamples=20)

    assert list(row.by_grade) == ["0.1", "0.01", "0"]
    for grade, found in row.by_grade.items():
        among = (relevance == 1) | (relevance == float(grade))
        assert found.value == pytest.approx(roc_auc_score(relevance[among] == 1, scores[among]))
        assert found.low < found.value < found.high


def test_two_grades_have_neither_a_rank_correlation_nor_figures_by_grade():
    row = _row(np.array([0.9, 0.7, 0.5, 0.1]), np.array([1.0, 0.0, 1.0, 0.0]))

    assert row.metrics["spearman"] == Estimate(None, None, None)
    assert row.by_grade == {}
    assert row.metrics["roc_auc"].value == 0.75


def test_continuous_relevance_is_correlated_and_its_histogram_has_two_parts():
    generator = np.random.default_rng(1)
    relevance = generator.random(200)
    scores = relevance + generator.normal(0, 0.2, 200)
    drawn = np.random.default_rng(0).integers(0, 200, 200)  # what seed 0 draws first

    row = _row(scores, relevance, resamples=1)

    assert row.metrics["spearman"].value == pytest.approx(spearmanr(scores, relevance).statistic)
    assert row.metrics["spearman"].low == pytest.approx(spearmanr(scores[drawn], relevance[drawn]).statistic)
    assert row.metrics["roc_auc"].low == pytest.approx(roc_auc_score(relevance[drawn] > 0.5, scores[drawn]))
    assert row.by_grade == {}
    assert {label: sum(counts) for label, counts in row.histogram.counts.items()} == {
        "positive": (relevance > 0.5).sum(),
        "negative": (relevance <= 0.5).sum(),
    }


def test_the_threshold_moves_the_classes_but_not_the_grades():
    scores, relevance = _case()

    row = _row(scores, relevance, positive_threshold=0.1, resamples=20)

    assert row.metrics["roc_auc"].value == pytest.approx(roc_auc_score(relevance >= 0.1, scores))
    assert list(row.by_grade) == ["0.1", "0.01", "0"]


def test_the_same_seed_gives_the_same_intervals():
    scores, relevance = _case()

    assert _row(scores, relevance, seed=1, resamples=50) == _row(scores, relevance, seed=1, resamples=50)
    assert _row(scores, relevance, seed=1, resamples=50) != _row(scores, relevance, seed=2, resamples=50)


def test_intervals_shrink_with_the_root_of_the_pairs():
    few, many = (_row(*_case(n, 6), resamples=400).metrics["roc_auc"] for n in (200, 3200))

    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.25)


def test_very_many_pairs_are_drawn_less_often(monkeypatch):
    assert pair_intervals._affordable(1000, 100_000) == 1000
    assert pair_intervals._affordable(1000, 200_000) == 500
    assert pair_intervals._affordable(1000, 10**8) == 200
    assert pair_intervals._affordable(50, 10**8) == 50

    monkeypatch.setattr(pair_intervals, "_FULL_WORK", 150)
    monkeypatch.setattr(pair_intervals, "_FEWEST_RESAMPLES", 5)
    scores, relevance = _case(300)
    fewer = _row(scores, relevance, resamples=40).metrics["roc_auc"]
    monkeypatch.undo()
    assert fewer == _row(scores, relevance, resamples=20).metrics["roc_auc"]


@pytest.mark.parametrize(("relevance", "which"), [(1.0, "positive"), (0.0, "negative")])
def test_one_class_leaves_figures_and_curves_out_with_a_reason(relevance, which):
    scores = np.linspace(0, 1, 20)

    found = compare_pairs({"base": scores, "tuned": scores}, np.full(20, relevance), kinds=KINDS)

    assert set(found.rows[0].metrics.values()) == {Estimate(None, None, None)}
    assert found.rows[0].best_f1_threshold is None
    assert found.rows[0].roc == found.rows[0].precision_recall == Curve((), ())
    assert sum(found.rows[0].histogram.counts[f"{relevance:g}"]) == 20
    assert found.note == f"ROC-AUC, average precision and F1 are undefined: all 20 pairs are {which}"


def test_a_note_names_the_system_that_it_is_about():
    relevance = np.array([0.0, 0.1, 1.0])

    found = compare_pairs({"base": np.arange(3), "tuned": np.ones(3)}, relevance, kinds=KINDS)

    assert found.note == "tuned: Spearman is undefined: all 3 scores are equal"
    assert found.rows[1].metrics["spearman"] == Estimate(None, None, None)


def test_all_scores_equal_is_chance_in_every_resample():
    row = _row(np.full(60, 0.5), np.repeat([0.0, 1.0], 30))

    assert row.metrics["roc_auc"] == Estimate(0.5, 0.5, 0.5)
    assert row.roc == Curve((0.0, 1.0), (0.0, 1.0))
    assert sum(map(sum, row.histogram.counts.values())) == 60


def test_resamples_without_a_positive_pair_are_left_out():
    row = _row(np.array([3.0, 2.0, 1.0]), np.array([1.0, 0.0, 0.0]), resamples=200)

    assert row.metrics["roc_auc"] == Estimate(1.0, 1.0, 1.0)


def test_short_curves_are_scikit_learn_s():
    scores, relevance = _case(150)
    row = _row(scores, relevance, resamples=1)

    false_positive_rate, true_positive_rate, _ = roc_curve(relevance > 0.5, scores)
    precision, recall, _ = precision_recall_curve(relevance > 0.5, scores)
    assert row.roc.x == pytest.approx(false_positive_rate)
    assert row.roc.y == pytest.approx(true_positive_rate)
    assert row.precision_recall.x == pytest.approx(recall[::-1])
    assert row.precision_recall.y == pytest.approx(precision[::-1])


def test_long_curves_are_thinned_without_losing_their_ends_or_their_area():
    scores, relevance = _case(20_000, 9)
    row = _row(scores, relevance, resamples=1)

    for curve in (row.roc, row.precision_recall):
        assert 200 < len(curve.x) == len(curve.y) <= 400
        assert list(curve.x) == sorted(curve.x)
    assert (row.roc.x[0], row.roc.y[0], row.roc.x[-1], row.roc.y[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert (row.precision_recall.x[0], row.precision_recall.y[0]) == (0.0, 1.0)
    assert row.precision_recall.x[-1] == 1.0
    assert row.precision_recall.y[-1] == pytest.approx((relevance > 0.5).mean())
    assert auc(row.roc.x, row.roc.y) == pytest.approx(row.metrics["roc_auc"].value, abs=1e-3)


def test_histograms_share_their_edges_and_count_every_pair():
    scores, relevance = _case()

    found = compare_pairs({"base": scores, "tuned": scores + 3}, relevance, kinds=KINDS, resamples=1)

    base, tuned = (row.histogram for row in found.rows)
    assert len(base.edges) == 41
    assert base.edges == tuned.edges
    assert (base.edges[0], base.edges[-1]) == pytest.approx((scores.min(), scores.max() + 3))
    for histogram in (base, tuned):
        assert list(histogram.counts) == ["1", "0.1", "0.01", "0"]
        for grade, counts in histogram.counts.items():
            assert sum(counts) == (relevance == float(grade)).sum()
    assert base.counts["1"] == tuple(np.histogram(scores[relevance == 1], base.edges)[0])


def test_the_document_is_json():
    scores, relevance = _case(20)
    found = compare_pairs({"base": scores.astype(np.float32)}, relevance, kinds=KINDS, resamples=10)

    assert json.loads(json.dumps(asdict(found), allow_nan=False))["pairs"] == 20


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "there is no system"),
        ({"base": np.array([1.0, np.nan])}, r"base: scores must be finite: 1 of 2 .* index 1 \(nan\)"),
        ({"base": np.ones(2), "tuned": np.ones(3)}, r"tuned: scores and relevance .* \(3,\) and \(2,\)"),
        ({"mine": np.ones(2)}, "kinds must name every system, 'mine' is missing"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused_with_the_system_named(scores, message):
    with pytest.raises(EvaluationError, match=message):
        compare_pairs(scores, np.array([1.0, 0.0]), kinds=KINDS)


def test_without_resamples_there_is_no_interval():
    with pytest.raises(EvaluationError, match="resamples must be at least 1, found 0"):
        _row(np.ones(2), np.array([1.0, 0.0]), resamples=0)
