"""A training step leaves all numbers on the device, so that the host can go on."""

import numpy as np
import pytest
import torch

from aisle.losses.registry import registered_losses
from aisle.training import objective
from tests.training.conftest import for_loss, labelled, trainer_of
from tests.training.host_reads import HostReadError, no_host_reads

NUMBERS = torch.arange(4)


@pytest.mark.parametrize(
    "read",
    [
        lambda: NUMBERS[0].item(),
        lambda: NUMBERS.tolist(),
        lambda: NUMBERS.sum() > 2 and None,
        lambda: int(NUMBERS[1]),
        lambda: NUMBERS[NUMBERS > 1],
        lambda: NUMBERS.nonzero(),
        lambda: torch.unique(NUMBERS),
        lambda: NUMBERS.repeat_interleave(NUMBERS),
        lambda: NUMBERS.clone().masked_select(NUMBERS > 1),
        lambda: NUMBERS.numpy(),
    ],
    ids=["item", "tolist", "bool", "int", "mask", "nonzero", "unique", "repeats", "select", "numpy"],
)
def test_reads_are_refused(read):
    read()
    with pytest.raises(HostReadError), no_host_reads():
        read()


@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
@pytest.mark.parametrize("learn_temperature", [False, True])
@pytest.mark.parametrize("loss", [loss.name for loss in registered_losses()])
def test_a_step_reads_no_number_from_the_device(base, monkeypatch, loss, learn_temperature, max_grad_norm):
    monkeypatch.setattr(objective, "SCORES_AT_A_TIME", 200)  # in several blocks
    pairs = for_loss(labelled(base), loss)
    trainer = trainer_of(
        base,
        pairs,
        loss=loss,
        learn_temperature=learn_temperature and loss != "cosine_target",
        max_grad_norm=max_grad_norm,
        max_tokens=1000,
        static_length=9,
    )
    batch = trainer.collate(np.arange(len(pairs)))
    trainer.model.train()
    with no_host_reads():
        metrics = trainer.step([batch], number=1, stop=False)
    assert torch.isfinite(metrics).all()
