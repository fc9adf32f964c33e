import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from aisle.errors import EvaluationError
from aisle.evaluation.pair_metrics import score_pairs, spearman


def test_figures_equal_the_hand_computed_ones():
    # best first: + - + -, so 3 of the 4 (positive, negative) couples are in order
    found = score_pairs(np.array([0.9, 0.7, 0.5, 0.1]), np.array([1.0, 0.0, 1.0, 0.0]))

    assert found.roc_auc == pytest.approx(3 / 4)
    assert found.average_precision == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found.best_f1 == pytest.approx(4 / 5)  # threshold 0.5: 2 true, 1 false positive
    assert found.best_f1_threshold == 0.5
    assert found.spearman is None
    assert (found.pairs, found.positive_share, found.note) == (4, 0.5, None)


@pytest.mark.parametrize("decimals", [1, 6])
def test_random_scores_with_and_without_ties_agree_with_scikit_learn(decimals):
    generator = np.random.default_rng(0)
    positive = generator.random(300) < 0.2
    scores = np.round(generator.normal(positive * 0.7, 1.0), decimals)

    found = score_pairs(scores, positive.astype(float))

    best = max(f1_score(positive, scores >= threshold) for threshold in np.unique(scores))
    assert found.roc_auc == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
    assert found.best_f1 == pytest.approx(best, abs=1e-12)
    assert f1_score(positive, scores >= found.best_f1_threshold) == pytest.approx(best, abs=1e-12)


def test_the_highest_of_equally_good_thresholds_is_reported():
    # F1 is 2/3 at 0.9 (1 of 2 found, none wrong) and at 0.3 (both found, 2 wrong)
    found = score_pairs(np.array([0.9, 0.6, 0.5, 0.3]), np.array([1.0, 0.0, 0.0, 1.0]))

    assert (found.best_f1, found.best_f1_threshold) == (pytest.approx(2 / 3), 0.9)


def test_all_scores_equal_is_chance():
    found = score_pairs(np.full(8, 0.5), np.array([1.0, 1, 0, 0, 0, 0, 0, 0]))

    assert found.roc_auc == 0.5
    assert found.average_precision == 0.25
    assert found.best_f1 == pytest.approx(2 * 0.25 / 1.25)


def test_order_of_the_pairs_does_not_matter():
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 5, 50) / 4
    relevance = generator.choice([0, 0.01, 0.1, 1], 50)
    shuffled = generator.permutation(50)

    found = score_pairs(scores, relevance).to_dict()
    again = score_pairs(scores[shuffled], relevance[shuffled]).to_dict()

    assert again.pop("mean_score_per_grade") == pytest.approx(found.pop("mean_score_per_grade"))
    assert again == pytest.approx(found, abs=1e-12)


def test_esci_labels_are_split_into_exact_and_the_rest():
    relevance = np.array([1.0, 0.1, 0.01, 0.0], dtype=np.float32)
    scores = np.array([0.9, 0.8, 0.2, 0.1])

    found = score_pairs(scores, relevance)

    assert found.positive_share == 0.25
    assert found.roc_auc == 1.0
    assert found.spearman == pytest.approx(1.0)
    assert found.mean_score_per_grade == {"0": 0.1, "0.01": 0.2, "0.1": 0.8, "1": 0.9}


def test_a_half_is_not_positive_by_default():
    assert score_pairs(np.array([1.0, 2.0]), np.array([0.5, 0.51])).positive_share == 0.5


def test_threshold_includes_equal_relevance_even_in_float32():
    relevance = np.array([0.7, 0.6, 0.1], dtype=np.float32)

    assert score_pairs(np.arange(3), relevance, positive_threshold=0.7).positive_share == pytest.approx(1 / 3)


def test_spearman_shares_ranks_among_ties():
    # ranks 1 2 3 4 against 1.5 1.5 3 4: covariance 4.5, deviations sqrt(5) and sqrt(4.5)
    found = spearman(np.array([1.0, 2, 3, 4]), np.array([0.0, 0, 0.5, 1]))

    assert found == pytest.approx(4.5 / (5**0.5 * 4.5**0.5))


@pytest.mark.parametrize(("relevance", "which"), [(1.0, "positive"), (0.0, "negative")])
def test_one_class_leaves_the_figures_undefined_with_a_reason(relevance, which):
    found = score_pairs(np.linspace(0, 1, 120), np.full(120, relevance))

    assert found.roc_auc is found.average_precision is found.best_f1 is found.best_f1_threshold is None
    assert found.note == f"ROC-AUC, average precision and F1 are undefined: all 120 pairs are {which}"


def test_one_class_with_grades_still_has_a_rank_correlation():
    found = score_pairs(np.array([0.3, 0.2, 0.1]), np.array([0.1, 0.01, 0.0]))

    assert found.roc_auc is None
    assert found.spearman == pytest.approx(1.0)


def test_rank_correlation_of_equal_scores_is_undefined_without_a_warning():
    found = score_pairs(np.ones(3), np.array([0.0, 0.1, 1.0]))

    assert found.spearman is None
    assert found.note == "Spearman is undefined: all 3 scores are equal"


def test_continuous_relevance_has_no_mean_per_grade():
    assert score_pairs(np.arange(11), np.linspace(0, 1, 11)).mean_score_per_grade == {}


def test_nan_scores_are_counted_and_the_first_is_named():
    scores = np.array([0.1, np.nan, 0.3, np.nan])

    with pytest.raises(EvaluationError, match=r"scores must be finite: 2 of 4 .* first at index 1 \(nan\)"):
        score_pairs(scores, np.ones(4))


@pytest.mark.parametrize("wrong", [1.5, -0.1, np.nan])
def test_relevance_outside_its_range_is_refused(wrong):
    with pytest.raises(EvaluationError, match=r"relevance must lie in \[0, 1\]: 1 of 2 .* index 1"):
        score_pairs(np.ones(2), np.array([1.0, wrong]))


def test_lengths_must_match():
    with pytest.raises(EvaluationError, match=r"\(3,\) and \(2,\)"):
        score_pairs(np.ones(3), np.ones(2))


def test_no_pairs_are_refused():
    with pytest.raises(EvaluationError, match="no pair"):
        score_pairs(np.empty(0), np.empty(0))


def test_undefined_figures_become_null_in_json():
    text = json.dumps(score_pairs(np.ones(2), np.ones(2)).to_dict(), allow_nan=False)

    assert json.loads(text)["roc_auc"] is None
    assert json.loads(text)["pairs"] == 2
