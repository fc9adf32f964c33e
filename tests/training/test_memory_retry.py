"""Out of memory: smaller sub-batches with the gradient of the whole batch."""

import pytest
import torch

from aisle.errors import TrainingError
from aisle.models.tower import Tower
from tests.training.conftest import assert_same, labelled, moved_by, trainer_of


class Scarce:
    """Model with memory for a limited number of tokens with activations, and any number without."""

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


def test_out_of_memory_halves_the_sub_batch_keeps_the_batch_and_is_logged_once(base, monkeypatch):
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


def test_a_run_that_ran_out_of_memory_keeps_its_small_sub_batches(base, monkeypatch):
    pairs = labelled(base)
    trainer = trainer_of(base, pairs, total_steps=2)
    trainer.state.sub_batch_tokens = 32
    scarce = Scarce(monkeypatch, tokens=32)
    trainer.run()
    assert max(scarce.seen) <= 32


def test_a_single_text_that_does_not_fit_ends_the_run_with_advice(base, monkeypatch):
    trainer = trainer_of(base, labelled(base))
    Scarce(monkeypatch, tokens=0)
    with pytest.raises(TrainingError, match=r"step 1: out of memory.*--max_length"):
        trainer.run()


def test_other_errors_of_the_model_are_not_taken_for_out_of_memory(base, monkeypatch):
    trainer = trainer_of(base, labelled(base))

    def broken(model, batches):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Tower, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trainer.run()
