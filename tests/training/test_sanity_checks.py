import math

import numpy as np
import pytest

from aisle.errors import TrainingError
from aisle.training.sanity_checks import check_learned, collapse_warning, no_gain_warning

BASE = np.array([[0.6, 0.8], [1.0, 0.0]], dtype=np.float32)
TUNED = BASE + np.float32(0.01)


def check(*, tuned=TUNED, base=BASE, loss_range=(0.3, 0.5), steps=3):
    check_learned(
        base=base,
        tuned=tuned,
        loss_range=loss_range,
        steps=steps,
        learning_rate=0.0005,
        trained="LoRA on query, value",
    )


def test_changed_embeddings_and_a_loss_that_moved_pass():
    check()


@pytest.mark.parametrize("difference", [0.0, 1e-7, 1e-6])
def test_unchanged_embeddings_are_refused_with_advice(difference):
    base = np.zeros((4, 2))
    tuned = base.copy()
    tuned[3, 1] = -difference

    with pytest.raises(TrainingError) as refused:
        check(base=base, tuned=tuned)

    message = str(refused.value)
    assert f"embeddings of 4 texts differ from the base model's by at most {difference:.1e}" in message
    assert "--learning_rate (it was 0.0005)" in message
    assert "--lora_target_modules (trained: LoRA on query, value)" in message
    assert "--label_map" in message


def test_one_component_that_changed_by_more_than_a_millionth_is_a_change():
    base = np.zeros((4, 2))
    tuned = base.copy()
    tuned[3, 1] = -1.1e-6

    check(base=base, tuned=tuned)


@pytest.mark.parametrize(
    ("loss_range", "steps"),
    [((0.25, 0.25), 3), ((0.0, 0.0), 500), ((1.0, 1.0 + 1e-7), 3), ((-2.0, -2.0), 4)],
)
def test_a_loss_that_never_moved_is_refused(loss_range, steps):
    with pytest.raises(TrainingError, match=rf"the loss of all {steps} steps is .*--learning_rate"):
        check(loss_range=loss_range, steps=steps)


@pytest.mark.parametrize(
    ("loss_range", "steps"),
    [
        ((0.25, 0.25), 2),  # too few steps to judge
        ((0.25, 0.2500001), 1000),  # 4e-7 of its size
        ((1e-9, 2e-9), 3),  # small, but halved
        ((-1e-9, 1e-9), 3),
    ],
)
def test_few_steps_and_losses_that_moved_pass(loss_range, steps):
    check(loss_range=loss_range, steps=steps)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_embeddings_that_are_not_finite_are_refused(value):
    tuned = TUNED.copy()
    tuned[1, 0] = value

    with pytest.raises(TrainingError, match="embeddings of 1 of 2 texts are not finite"):
        check(tuned=tuned)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def around(spread, texts=20):
    """Return embeddings of different texts, with a given spread, each embedding twice."""
    rng = np.random.default_rng(0)
    return np.repeat(unit(np.ones((texts, 8)) + spread * rng.normal(size=(texts, 8))), 2, axis=0)


@pytest.mark.parametrize(("spread", "collapsed"), [(0.0, True), (1e-3, True), (0.05, True), (0.5, False)])
def test_nearly_equal_embeddings_of_all_texts_mean_a_collapsed_model(spread, collapsed):
    tuned = around(spread)
    distinct = tuned[::2].astype(np.float64)
    cosines = (distinct @ distinct.T)[~np.eye(20, dtype=bool)]
    found = collapse_warning(around(0.5), tuned, learning_rate=0.1)
    assert (found is not None) == collapsed == (cosines.mean() >= 0.99)
    if found is not None:
        assert f"mean cosine {cosines.mean():.4f}" in found
        assert "--learning_rate (it was 0.1)" in found


def test_texts_with_equal_embeddings_before_training_are_not_a_collapse():
    same = np.ones((6, 8), np.float32) / np.float32(8**0.5)
    assert collapse_warning(same, same, learning_rate=0.1) is None


@pytest.mark.parametrize(
    ("base", "kept", "warned"),
    [
        ({"roc_auc": 0.7}, {"roc_auc": 0.56, "step": 3}, "roc_auc is 0.5600, and was 0.7000 before training"),
        ({"roc_auc": 0.7}, {"roc_auc": 0.7}, "roc_auc is 0.7000, and was 0.7000"),
        ({"roc_auc": 0.7}, {"roc_auc": 0.71}, None),
        ({"roc_auc": 1.0}, {"roc_auc": 1.0}, None),
        ({"roc_auc": 0.7, "mrr": 0.4}, {"roc_auc": 0.7, "mrr": 0.5}, "roc_auc is 0.7000, and was 0.7000"),
        ({"roc_auc": None}, {"roc_auc": None}, None),
        ({"roc_auc": 0.7}, {"roc_auc": None}, None),
        ({}, {}, None),
    ],
)
def test_a_model_that_is_no_better_than_its_base_model_gives_a_warning(base, kept, warned):
    found = no_gain_warning(base, kept, metric="roc_auc")
    assert (found is None) if warned is None else (warned in found)


def test_the_gain_is_measured_by_the_selection_metric():
    base = {"roc_auc": 0.5, "mrr": 0.5, "joint_pool_mrr": 0.3}
    kept = {"roc_auc": 0.9, "mrr": 0.4, "joint_pool_mrr": 0.2}
    assert no_gain_warning(base, kept, metric="roc_auc") is None
    assert "mrr is 0.4000, and was 0.5000" in str(no_gain_warning(base, kept, metric="mrr"))
    warning = str(no_gain_warning(base, kept, metric="joint_pool_mrr"))
    assert "joint_pool_mrr is 0.2000, and was 0.3000" in warning
