"""Random state of devices that this machine lacks."""

import pytest
import torch

from aisle.training.random_state import RandomState


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_the_random_state_of_any_device_is_restored(monkeypatch, kind):
    """The devices are missing here; fakes replace their generators."""
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


def test_a_device_without_a_readable_generator_has_no_whole_random_state():
    assert not RandomState.now(torch.device("meta")).whole
    assert RandomState.now(torch.device("cpu")).whole
