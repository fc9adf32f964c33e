"""Synchronisation of ranks, tested on one rank; tests/commands/test_two_processes.py runs two."""

import gc
import weakref
from contextlib import suppress

import pytest
import torch
from torch import distributed

from aisle.training.out_of_memory import is_out_of_memory
from aisle.training.rank_sync import OutOfMemoryElsewhereError, RankSync


@pytest.fixture
def alone():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield RankSync(None)
    distributed.destroy_process_group()


class Accelerator:
    """Accelerator of two ranks, of which the given number joins over gloo."""

    num_processes = 2
    device = torch.device("cpu")

    def __init__(self, joined):
        self.joined = joined

    def reduce(self, own, reduction):
        return torch.tensor(self.joined)


def no_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_block_that_ran_out_of_memory_leaves_no_tensors_in_memory(alone):
    """If the tensors of a failed attempt stay, the next attempt has less memory."""
    kept = []

    def attempt():
        with alone.all_or_none():
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


def test_a_rank_with_memory_raises_when_another_runs_out(alone, monkeypatch):
    monkeypatch.setattr(RankSync, "highest", lambda self, number: 1)
    with pytest.raises(OutOfMemoryElsewhereError, match="another process") as raised, alone.all_or_none():
        pass
    assert is_out_of_memory(raised.value)


def test_a_block_that_succeeds_on_all_ranks_raises_nothing(alone):
    with alone.all_or_none():
        done = True
    assert done


def test_other_errors_are_raised_at_once(alone, monkeypatch):
    monkeypatch.setattr(RankSync, "highest", lambda self, number: pytest.fail("the other ranks were asked"))
    with pytest.raises(RuntimeError, match="shapes"), alone.all_or_none():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(("joined", "synced"), [(2, True), (1, False)])
def test_ranks_are_synced_only_if_gloo_connects_all_of_them(alone, joined, synced):
    assert (RankSync.of_all(Accelerator(joined)) is not None) == synced


def test_a_rank_that_gloo_does_not_reach_raises_nothing(monkeypatch):
    def refuse(backend):
        raise RuntimeError("Gloo connectFullMesh failed")

    monkeypatch.setattr(distributed, "new_group", refuse)
    assert RankSync.of_all(Accelerator(1)) is None
