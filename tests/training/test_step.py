"""Cached embeddings, out of memory, learned temperature: the gradient stays that of the plain step."""

import math

import pytest
import torch

from aisle.errors import TrainingError
from aisle.losses.parameters import Temperature
from aisle.losses.registry import loss_named
from aisle.models.tower import Tower
from aisle.training import objective
from aisle.training.grad_cache import sub_batches
from aisle.training.random_state import RandomState
from tests.training.conftest import texts_of, tokenized, trainer_of, weights_of

LOSSES = ["cosine_target", "cosent", "listwise", "in_batch"]


def labelled(base, count=40):
    labels = [1.0, 0.0, 0.4, 0.0, 1.0] * (count // 5)
    queries = [text for text in texts_of(count // 5, seed=5) for _ in range(5)]
    return tokenized(base.tokenizer, queries, texts_of(count, seed=6), labels)


def moved_by(trainer):
    """What a step of the trainer does to the weights."""
    before = weights_of(trainer)
    torch.manual_seed(3)
    trainer.run()
    return {name: value - before[name] for name, value in weights_of(trainer).items()}


def assert_same(first, second, *, atol=1e-6):
    assert max(float(value.abs().max()) for value in first.values()) > 1e-3
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_cached_embeddings_give_the_gradient_of_the_plain_step(base, loss, packed):
    pairs = labelled(base)
    plain = moved_by(trainer_of(base, pairs, batch_size=20, accumulation=2, loss=loss, packed=packed))
    cached = moved_by(
        trainer_of(
            base, pairs, batch_size=20, accumulation=2, loss=loss, packed=packed, cached=True, max_tokens=32
        )
    )
    assert_same(plain, cached)


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_the_random_numbers_of_any_device_go_back(monkeypatch, kind):
    """The devices are not there: their generators are stood in for."""
    states = {"now": torch.tensor([1, 2], dtype=torch.uint8)}
    module = getattr(torch, kind)
    monkeypatch.setattr(module, "get_rng_state", lambda device: states["now"].clone())
    monkeypatch.setattr(module, "set_rng_state", lambda state, device: states.update(now=state))
    before = RandomState.now(torch.device(kind))
    cpu = torch.rand(2)
    states["now"] = torch.tensor([7, 7], dtype=torch.uint8)

    before.restore()

    assert before.whole
    assert states["now"].tolist() == [1, 2]
    assert torch.equal(torch.rand(2), cpu)


def test_cached_embeddings_are_refused_on_a_device_whose_random_numbers_cannot_go_back(base, monkeypatch):
    """Other masks in the second pass would give the gradient of other embeddings."""
    trainer = trainer_of(base, labelled(base), cached=True, max_tokens=32)
    monkeypatch.setattr(RandomState, "whole", property(lambda self: False))
    with pytest.raises(TrainingError, match="--cached_embeddings: torch cannot restore the random numbers"):
        trainer.run()


def test_a_device_without_a_generator_has_no_whole_random_state():
    assert not RandomState.now(torch.device("meta")).whole
    assert RandomState.now(torch.device("cpu")).whole


def test_cached_embeddings_draw_the_same_dropout_twice(base):
    """The gradient belongs to the embeddings that the loss saw, not to others with another dropout."""
    pairs = labelled(base)
    trainer = trainer_of(base, pairs, loss="in_batch", cached=True, max_tokens=32, dropout=0.3)
    seen = []
    embed = Tower.forward
    trainer.model.forward = lambda batches: seen.append(embed(trainer.model, batches)) or seen[-1]
    trainer.run()
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(first) > 2
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    assert not first[0].requires_grad
    assert second[0].requires_grad


def test_random_numbers_go_on_after_a_cached_step_as_after_its_first_pass(base):
    pairs = labelled(base)
    trainer = trainer_of(base, pairs, cached=True, max_tokens=32, dropout=0.3, total_steps=1)
    torch.manual_seed(0)
    trainer.run()
    after = torch.rand(1)
    torch.manual_seed(0)
    batch = trainer.collate(next(trainer.plan.steps(0))[0])
    with torch.no_grad():
        for part in sub_batches(batch, 32):
            trainer.model([part])
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("rows", [1, 7])
def test_the_loss_in_parts_has_the_gradient_of_the_whole(base, monkeypatch, rows):
    pairs = labelled(base)
    whole = moved_by(trainer_of(base, pairs, loss="in_batch"))
    columns = 8 + 40  # at most so many distinct queries and products
    monkeypatch.setattr(objective, "SCORES_AT_A_TIME", rows * columns)
    assert_same(whole, moved_by(trainer_of(base, pairs, loss="in_batch")))


@pytest.mark.parametrize("loss", ["cosent", "listwise", "in_batch"])
def test_a_learned_temperature_moves_by_the_slope_of_the_loss(base, loss):
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
    # It moved by .88, and float32 rounds at 1e-7: processors differ by a few of those.
    assert found[0] == pytest.approx(found[1], abs=3e-6)
    assert found[0] != pytest.approx(math.log(0.1), abs=1e-4)


def test_a_learned_temperature_stops_at_its_floor_and_can_rise_again(base):
    learned = objective.Objective(loss_named("cosent"), Temperature(temperature=0.02, learn_temperature=True))
    with torch.no_grad():
        learned.log_temperature.sub_(5)
    learned.keep_temperature()
    assert learned.temperature.item() == pytest.approx(objective.LOWEST_TEMPERATURE)
    learned.temperature.backward()
    assert learned.log_temperature.grad.item() != 0


class Scarce:
    """A model that has memory for so many tokens with activations, and for any number without."""

    def __init__(self, monkeypatch, tokens):
        self.forward, self.tokens, self.seen = Tower.forward, tokens, []
        monkeypatch.setattr(Tower, "forward", lambda model, batches: self(model, batches))

    def __call__(self, model, batches):
        tokens = sum(batch.read_tokens for batch in batches)
        if torch.is_grad_enabled():
            self.seen.append(tokens)
            if tokens > self.tokens:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.forward(model, batches)


def test_out_of_memory_halves_the_sub_batch_and_not_the_batch_and_says_so_once(base, monkeypatch):
    pairs = labelled(base)
    plain = moved_by(trainer_of(base, pairs, loss="in_batch"))
    said = []
    trainer = trainer_of(base, pairs, loss="in_batch", total_steps=2)
    trainer.step.retry.log = said.append
    trainer.schedule = type(trainer.schedule)(**{**vars(trainer.schedule), "total_steps": 1})
    scarce = Scarce(monkeypatch, tokens=60)
    assert_same(plain, moved_by(trainer))
    assert len(said) == 1
    assert "out of memory" in said[0]
    assert trainer.state.sub_batch_tokens <= 60
    whole = scarce.seen[0]
    assert scarce.seen[1] <= whole // 2 + 1
    assert trainer.state.total.pairs == 40


def test_a_run_that_ran_out_of_memory_goes_on_with_its_small_sub_batches(base, monkeypatch):
    pairs = labelled(base)
    trainer = trainer_of(base, pairs, total_steps=2)
    trainer.state.sub_batch_tokens = 32
    scarce = Scarce(monkeypatch, tokens=32)
    trainer.run()
    assert max(scarce.seen) <= 32


def test_a_single_text_that_does_not_fit_ends_the_run_with_what_to_change(base, monkeypatch):
    trainer = trainer_of(base, labelled(base))
    Scarce(monkeypatch, tokens=0)
    with pytest.raises(TrainingError, match=r"step 1: out of memory.*--max_length"):
        trainer.run()


def test_other_errors_of_the_model_are_not_taken_for_want_of_memory(base, monkeypatch):
    trainer = trainer_of(base, labelled(base))

    def broken(model, batches):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Tower, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trainer.run()


def test_memory_that_runs_out_in_the_optimiser_ends_the_run_with_what_to_change(base, monkeypatch):
    trainer = trainer_of(base, labelled(base))

    def step():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trainer.step.optimizer, "step", step)
    with pytest.raises(TrainingError, match=r"step 1, the optimiser: out of memory.*--use_peft"):
        trainer.run()
