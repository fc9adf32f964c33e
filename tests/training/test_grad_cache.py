"""Cached embeddings have the gradient, the dropout and the random state of a plain step."""

import pytest
import torch

from aisle.errors import TrainingError
from aisle.models.tower import Tower
from aisle.training.grad_cache import sub_batches
from aisle.training.random_state import RandomState
from tests.training.conftest import assert_same, labelled, moved_by, trainer_of

LOSSES = ["cosine_target", "cosent", "listwise", "in_batch"]


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


def test_cached_embeddings_are_refused_on_a_device_whose_random_state_cannot_be_restored(base, monkeypatch):
    """Other dropout masks in the second pass would give the gradient of other embeddings."""
    trainer = trainer_of(base, labelled(base), cached=True, max_tokens=32)
    monkeypatch.setattr(RandomState, "whole", property(lambda self: False))
    with pytest.raises(TrainingError, match="--cached_embeddings: torch cannot restore the random state"):
        trainer.run()


def test_both_passes_of_cached_embeddings_have_the_same_dropout(base):
    """The gradient must be that of the embeddings in the loss, not of embeddings with another dropout."""
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


def test_the_random_state_after_a_cached_step_is_that_after_its_first_pass(base):
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
