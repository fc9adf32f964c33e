"""Training step: losses in parts, a learned temperature, the optimiser."""

import math

import pytest
import torch

from aisle.errors import TrainingError
from aisle.losses.parameters import Temperature
from aisle.losses.registry import loss_named
from aisle.training import objective
from tests.training.conftest import assert_same, labelled, moved_by, trainer_of


@pytest.mark.parametrize("rows", [1, 7])
def test_the_loss_in_parts_has_the_gradient_of_the_whole(base, monkeypatch, rows):
    pairs = labelled(base)
    whole = moved_by(trainer_of(base, pairs, loss="in_batch"))
    columns = 8 + 40  # at most so many distinct queries and products
    monkeypatch.setattr(objective, "SCORES_AT_A_TIME", rows * columns)
    assert_same(whole, moved_by(trainer_of(base, pairs, loss="in_batch")))


@pytest.mark.parametrize("loss", ["cosent", "listwise", "in_batch"])
def test_a_learned_temperature_follows_the_gradient_of_the_loss(base, loss):
    pairs = labelled(base)

    def loss_at(temperature):
        logged = []
        trainer = trainer_of(base, pairs, loss=loss, temperature=temperature)
        trainer.on_log = logged.append
        trainer.run()
        return logged[0]["loss"]

    trainer = trainer_of(base, pairs, loss=loss, learn_temperature=True)
    trainer.run()
    moved = trainer.step.objective.log_temperature.item() - math.log(0.1)
    slope = (loss_at(0.1 * math.exp(0.01)) - loss_at(0.1 * math.exp(-0.01))) / 0.02
    assert moved == pytest.approx(-0.5 * slope, rel=1e-2)
    assert abs(moved) > 1e-3


def test_a_learned_temperature_is_the_same_with_cached_embeddings_and_accumulation(base):
    pairs = labelled(base)
    found = []
    for cached in (False, True):
        trainer = trainer_of(
            base,
            pairs,
            loss="cosent",
            learn_temperature=True,
            cached=cached,
            max_tokens=32,
            batch_size=10,
            accumulation=4,
        )
        trainer.run()
        found.append(trainer.step.objective.log_temperature.item())
    # It changed by .88, and float32 rounds at 1e-7, so processors differ by a few times 1e-7.
    assert found[0] == pytest.approx(found[1], abs=3e-6)
    assert found[0] != pytest.approx(math.log(0.1), abs=1e-4)


def test_a_learned_temperature_stops_at_its_lower_limit_and_can_rise_again(base):
    learned = objective.Objective(loss_named("cosent"), Temperature(temperature=0.02, learn_temperature=True))
    with torch.no_grad():
        learned.log_temperature.sub_(5)
    learned.keep_temperature()
    assert learned.temperature.item() == pytest.approx(objective.LOWEST_TEMPERATURE)
    learned.temperature.backward()
    assert learned.log_temperature.grad.item() != 0


def test_out_of_memory_in_the_optimiser_ends_the_run_with_advice(base, monkeypatch):
    trainer = trainer_of(base, labelled(base))

    def step():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trainer.step.optimizer, "step", step)
    with pytest.raises(TrainingError, match=r"step 1, the optimiser: out of memory.*--use_peft"):
        trainer.run()


def test_the_schedule_advances_in_a_step_that_fp16_skips(base, monkeypatch):
    """A fused optimiser skips it on the device, and the host does not wait to read that."""
    trainer = trainer_of(base, labelled(base), total_steps=3)
    skipped = property(lambda _: True)
    monkeypatch.setattr(type(trainer.accelerator), "optimizer_step_was_skipped", skipped)
    before = trainer.step.scheduler.last_epoch
    trainer.run()
    assert trainer.step.scheduler.last_epoch == before + 3
