"""Gradient of a step, compared with a plain forward and backward pass over all of its pairs."""

import copy
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aisle.errors import TrainingError, TrainingStopped
from aisle.losses.cosine_target import LOSS, cosine_target
from aisle.models.heads import Normalize
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower
from aisle.training.step import TrainingStep
from aisle.training.step_metrics import StepMetrics, metrics_to_sum
from tests.training.conftest import collator_of, texts_of, tokenized, trainer_of, weights_of


def pairs_of(base, count, *, distinct_texts=True):
    relevance = np.random.default_rng(0).random(count).astype(np.float32)
    queries, products = texts_of(count, seed=1), texts_of(count, seed=2)
    return tokenized(base.tokenizer, queries, products, relevance), (queries, products, relevance)


def plain_gradient(base, rows):
    """Backpropagate the mean loss over all pairs, by its definition: each text padded to 16 tokens."""
    queries, products, relevance = rows
    model = Tower(copy.deepcopy(base.backbone), Pooling("mean"), [Normalize()]).eval()
    found = []
    for texts in (queries, products):
        tokens = base.tokenizer(
            texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
        )
        hidden = model.backbone(
            tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
        mask = tokens["attention_mask"][..., None].float()
        found.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1))
    cosine = (found[0] * found[1]).sum(1)
    y = torch.from_numpy(relevance)
    ((y * (1 - cosine) + torch.relu((1 - y) * cosine)) ** 2).mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(64, 1), (16, 4), (7, 10), (1, 64)])
@pytest.mark.parametrize("count", [64, 50])
def test_a_step_has_the_gradient_of_the_mean_over_all_its_pairs(
    base, count, batch_size, accumulation, packed
):
    pairs, rows = pairs_of(base, count)
    trainer = trainer_of(base, pairs, batch_size=batch_size, accumulation=accumulation, packed=packed)
    before = weights_of(trainer)
    trainer.run()
    for name, gradient in plain_gradient(base, rows).items():
        moved = (before[name] - weights_of(trainer)[name]) / 0.5
        torch.testing.assert_close(moved, gradient, atol=2e-6, rtol=1e-4)


def test_a_short_last_step_weights_its_pairs_equally(base):
    pairs, _ = pairs_of(base, 20)
    logged = []
    trainer = trainer_of(base, pairs, batch_size=8, accumulation=2, total_steps=2)
    trainer.on_log = logged.append
    trainer.step.optimizer.param_groups[0]["lr"] = 0.0
    trainer.run()
    batch = collator_of(pairs)(np.arange(20))
    with torch.no_grad():
        found = trainer.model(batch.token_batches)
    losses = cosine_target(found[batch.query_rows], found[batch.product_rows], batch.relevance)
    expected = [float(losses[np.concatenate(step)].mean()) for step in trainer.plan.steps(0)]
    assert [entry["loss"] for entry in logged] == pytest.approx(expected, abs=1e-6)
    assert trainer.state.total.pairs == 20


def test_the_mean_of_a_step_is_over_its_positives_in_all_batches(base):
    """The loss is in_batch, with two accumulated batches that have different numbers of positives."""
    queries, products = texts_of(8, seed=3), texts_of(8, seed=4)
    pairs = tokenized(base.tokenizer, queries, products, [1, 1, 1, 0, 0, 0, 1, 0])
    logged = []
    trainer = trainer_of(base, pairs, batch_size=4, accumulation=2, loss="in_batch")
    trainer.on_log = logged.append
    trainer.step.optimizer.param_groups[0]["lr"] = 0.0
    trainer.run()
    total = 0.0
    for rows in next(trainer.plan.steps(0)):
        batch = collator_of(pairs, loss="in_batch")(rows)
        with torch.no_grad():
            found = trainer.model(batch.token_batches)
            total += sum(float(part) for part in trainer.step.objective.parts(found, batch))
    assert logged[0]["loss"] == pytest.approx(total / 4, abs=1e-6)


def test_a_step_without_any_positive_changes_nothing(base):
    pairs = tokenized(base.tokenizer, texts_of(6), texts_of(6, seed=9), [0] * 6)
    trainer = trainer_of(base, pairs, loss="in_batch")
    before = weights_of(trainer)
    trainer.run()
    assert all(torch.equal(before[name], value) for name, value in weights_of(trainer).items())


@pytest.mark.parametrize("lag", [True, False], ids=["gpu", "cpu"])
def test_a_loss_that_is_not_finite_is_reported_with_its_step(base, monkeypatch, lag):
    """On an asynchronous device, the metrics of a step are read after the next step."""
    pairs, _ = pairs_of(base, 40)
    trainer = trainer_of(base, pairs, batch_size=4, total_steps=10, logging_steps=10)
    monkeypatch.setattr(type(trainer), "_metrics_are_late", property(lambda self: lag))
    step = TrainingStep.__call__

    def nan_in_the_third(self, batches, *, number, stop):
        metrics = step(self, batches, number=number, stop=stop)
        return metrics * torch.nan if number == 3 else metrics

    monkeypatch.setattr(TrainingStep, "__call__", nan_in_the_third)
    with pytest.raises(TrainingError, match=r"^step 3: the loss is nan"):
        trainer.run()


class NoFloat64(TorchDispatchMode):
    """Raise an error at the first operation that gives float64, like a device without float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else (found,):
            assert not isinstance(one, torch.Tensor) or one.dtype != torch.float64, func
        return found


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("loss", ["cosine_target", "cosent", "listwise", "in_batch"])
def test_training_computes_nothing_in_float64(base, loss, cached):
    """Apple's GPUs have no float64."""
    pairs, _ = pairs_of(base, 20)
    options = {"learn_temperature": loss != "cosine_target", "cached": cached, "accumulation": 2}
    trainer = trainer_of(base, pairs, batch_size=5, loss=loss, total_steps=2, max_grad_norm=1.0, **options)
    with NoFloat64():
        trainer.run()
    assert trainer.state.step == 2


def test_token_counts_beyond_the_precision_of_float32_are_exact():
    counts = [(2**24 + 1, 2**31 + 4097), (3, 2**33 + 1)]
    summed = sum(
        metrics_to_sum(torch.tensor(0.5), real_tokens=real, read_tokens=read, stop=False)
        for real, read in counts
    )
    figures = StepMetrics.read(1, torch.cat([summed, torch.ones(1)]))
    assert (figures.real_tokens, figures.read_tokens) == (2**24 + 4, 2**31 + 2**33 + 4098)
    assert (figures.loss, figures.stop, figures.gradient_norm) == (1.0, False, 1.0)


def test_evaluations_run_at_the_end_of_every_epoch_and_every_eval_steps(base):
    pairs, _ = pairs_of(base, 20)
    trainer = trainer_of(base, pairs, batch_size=4, total_steps=12, eval_steps=3)
    trainer.run()
    assert [(entry["step"], entry["epoch"]) for entry in trainer.state.history] == [
        (3, 1),
        (5, 1),
        (6, 2),
        (9, 2),
        (10, 2),
        (12, 3),
    ]


def test_the_best_weights_are_those_of_the_best_evaluation(base):
    values = iter([0.6, 0.9, 0.7])
    pairs, _ = pairs_of(base, 12)
    trainer = trainer_of(
        base, pairs, batch_size=4, total_steps=3, eval_steps=1, evaluate=lambda: {"roc_auc": next(values)}
    )
    seen = []
    trainer.on_evaluation = lambda entry: seen.append(weights_of(trainer))
    trainer.run()
    assert trainer.state.best["step"] == 2
    for name, value in trainer.best_weights.items():
        torch.testing.assert_close(value, seen[1][name], atol=0, rtol=0)
    assert any(not torch.equal(seen[2][name], value) for name, value in trainer.best_weights.items())


def test_a_run_stops_early_after_the_given_number_of_evaluations_without_improvement(base):
    values = iter([0.6, 0.9, 0.7, 0.9, 0.95])
    pairs, _ = pairs_of(base, 12)
    trainer = trainer_of(
        base,
        pairs,
        batch_size=4,
        total_steps=30,
        eval_steps=1,
        early_stopping_patience=2,
        evaluate=lambda: {"roc_auc": next(values)},
    )
    said = []
    trainer.log = said.append
    trainer.run()
    assert (trainer.state.step, trainer.state.stopped_early, trainer.state.best["step"]) == (4, True, 2)
    assert said == ["stopping early after step 4: no better evaluation in the last 2"]


def test_a_loss_that_is_not_finite_stops_training_with_advice(base, monkeypatch):
    pairs, _ = pairs_of(base, 8)
    trainer = trainer_of(base, pairs, batch_size=4)
    broken = replace(LOSS, function=lambda queries, _, relevance: queries.sum(dim=1) * float("nan"))
    monkeypatch.setattr(trainer.step.objective, "loss", broken)
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan; lower --learning_rate"):
        trainer.run()


def test_gradients_longer_than_the_limit_are_clipped(base):
    pairs, _ = pairs_of(base, 16)
    trainer = trainer_of(base, pairs, batch_size=16, max_grad_norm=1e-3)
    before = weights_of(trainer)
    trainer.run()
    moved = [(before[name] - value).flatten() / 0.5 for name, value in weights_of(trainer).items()]
    assert float(torch.cat(moved).norm()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(base, tmp_path, name, monkeypatch):
    # A shell starts background jobs with SIGINT ignored, and then the run ignores it too.
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_DFL)
    pairs, _ = pairs_of(base, 20)
    trainer = trainer_of(base, pairs, batch_size=4, total_steps=10)
    trainer.checkpoints_dir = tmp_path
    trainer.on_log = lambda values: values["step"] == 3 and os.kill(os.getpid(), getattr(signal, name))
    with pytest.raises(TrainingStopped, match=name):
        trainer.run()
    assert trainer.state.step == 4
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000004"]


def test_a_stop_counts_every_step_when_metrics_are_read_late(base, tmp_path, monkeypatch):
    """On such a device, the metrics of a step are read during the next step."""
    pairs, _ = pairs_of(base, 40)
    trainer = trainer_of(base, pairs, batch_size=4, total_steps=10, logging_steps=100)
    trainer.checkpoints_dir = tmp_path
    steps = []
    plain = TrainingStep.__call__

    def step(self, batches, *, number, stop):
        steps.append(stop)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batches, number=number, stop=stop)

    monkeypatch.setattr(TrainingStep, "__call__", step)
    monkeypatch.setattr(type(trainer), "_metrics_are_late", property(lambda _: True))
    with pytest.raises(TrainingStopped):
        trainer.run()
    window = trainer.state.window
    assert (trainer.state.step, window.steps, window.pairs) == (len(steps), len(steps), 4 * len(steps))
    assert steps == [False, False, False, True, True]


def test_an_evaluation_that_is_due_at_a_signal_runs_before_the_checkpoint(base, tmp_path):
    """The resumed run would never run this evaluation."""
    pairs, _ = pairs_of(base, 20)
    trainer = trainer_of(base, pairs, batch_size=4, total_steps=10, eval_steps=4)
    trainer.checkpoints_dir = tmp_path
    trainer.on_log = lambda values: values["step"] == 3 and os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(TrainingStopped):
        trainer.run()
    assert [entry["step"] for entry in trainer.state.history] == [4]


@pytest.mark.parametrize(("patience", "steps"), [(2, 0), (1, 0), (9, 10), (None, 10)])
def test_a_run_that_stopped_early_continues_when_resumed_with_more_patience(base, patience, steps):
    trainer = trainer_of(
        base, pairs_of(base, 12)[0], batch_size=4, total_steps=10, early_stopping_patience=patience
    )
    trainer.state.stopped_early, trainer.state.evaluations_without_gain = True, 2
    trainer.run()
    assert trainer.state.step == steps
    assert trainer.state.stopped_early == (steps == 0)


def test_only_the_given_number_of_checkpoints_is_kept(base, tmp_path):
    pairs, _ = pairs_of(base, 20)
    trainer = trainer_of(
        base, pairs, batch_size=4, total_steps=5, checkpointing_steps=1, checkpoints_to_keep=2
    )
    trainer.checkpoints_dir = tmp_path
    trainer.run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000004", "step_00000005"]
