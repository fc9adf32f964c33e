"""What processes agree on, seen from one; tests/commands/test_two_processes.py has two of them."""

import gc
import weakref
from contextlib import suppress

import pytest
import torch
from torch import distributed

from aisle.training import rank_sync
from aisle.training.out_of_memory import is_out_of_memory
from aisle.training.rank_sync import Agreement, OutOfMemoryElsewhereError, sum_gradients


@pytest.fixture
def alone():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield Agreement(None)
    distributed.destroy_process_group()


class Accelerator:
    """Of two processes, of which this many can talk over gloo."""

    num_processes = 2
    device = torch.device("cpu")

    def __init__(self, talking):
        self.talking = talking

    def reduce(self, own, reduction):
        return torch.tensor(self.talking)


def no_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_block_that_ran_out_of_memory_leaves_nothing_in_it(alone):
    """The next attempt has less memory than this one if the failed one's tensors outlive it."""
    kept = []

    def attempt():
        with alone.together():
            activations = torch.ones(4)
            kept.append(weakref.ref(activations))
            no_memory()

    gc.disable()
    try:
        with suppress(torch.OutOfMemoryError):
            attempt()
        assert kept[0]() is None
    finally:
        gc.enable()


def test_a_process_with_memory_hears_that_another_has_none(alone, monkeypatch):
    monkeypatch.setattr(Agreement, "highest", lambda self, number: 1)
    with pytest.raises(OutOfMemoryElsewhereError, match="another process") as raised, alone.together():
        pass
    assert is_out_of_memory(raised.value)


def test_a_block_that_ends_well_in_all_goes_on(alone):
    with alone.together():
        done = True
    assert done


def test_other_errors_are_raised_at_once(alone, monkeypatch):
    monkeypatch.setattr(Agreement, "highest", lambda self, number: pytest.fail("nobody else is asked"))
    with pytest.raises(RuntimeError, match="shapes"), alone.together():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(("talking", "agree"), [(2, True), (1, False)])
def test_processes_agree_only_if_all_can_talk(alone, talking, agree):
    assert (Agreement.of_all(Accelerator(talking)) is not None) == agree


def test_a_process_that_cannot_talk_over_gloo_is_no_fault(monkeypatch):
    def refuse(backend):
        raise RuntimeError("Gloo connectFullMesh failed")

    monkeypatch.setattr(distributed, "new_group", refuse)
    assert Agreement.of_all(Accelerator(1)) is None


@pytest.mark.parametrize("numbers", [1, 7, 1000])
def test_gradients_are_summed_in_buckets_whatever_their_shape_and_order(alone, monkeypatch, numbers):
    monkeypatch.setattr(rank_sync, "NUMBERS_AT_A_TIME", numbers)
    monkeypatch.setattr(distributed, "all_reduce", lambda flat: flat.mul_(2))
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(2, 3), (5,), (), (3, 1)]]
    for number, parameter in enumerate(parameters[:3]):
        parameter.grad = torch.arange(parameter.numel(), dtype=torch.float32).view_as(parameter) + number
    parameters[0].grad = parameters[0].grad.t().contiguous().t()
    before = [None if one.grad is None else one.grad.clone() for one in parameters]
    sum_gradients(parameters)
    for old, parameter in zip(before[:3], parameters[:3], strict=True):
        assert torch.equal(parameter.grad, 2 * old)
    assert torch.equal(parameters[3].grad, torch.zeros(3, 1))
