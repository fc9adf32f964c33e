"""Collective operations: all communication between the ranks of a run.

Every rank must call each function equally often and in the same order, whatever its share of a batch. A rank
without a pair, a positive or a text contributes zeros. If it skipped the call, the other ranks would wait for
it until the operation times out. `tests/training/test_rank_calls.py` records the calls of two ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import distributed

from aisle.kernels.adjacent_tensors import are_adjacent

NUMBERS_AT_A_TIME = 1 << 23
"""Most numbers in a bucket of gradients that are summed together; a larger parameter has its own bucket."""


def wait_for_all(state: Any) -> None:
    """Wait until every rank has called this function.

    Args:
        state: `Accelerator` or `PartialState` of the run.
    """
    state.wait_for_everyone()


def gather_rows(accelerator: Any, rows: torch.Tensor, counts: tuple[int, ...]) -> torch.Tensor:
    """Return the rows of all ranks, in the order of the ranks; ranks may have different numbers of rows.

    Args:
        accelerator: The run's `Accelerator`.
        rows: (own rows, dim) this rank's rows.
        counts: Number of rows of each rank.
    """
    if accelerator.num_processes == 1:
        return rows.clone()
    most = max(counts)
    padded = rows.new_zeros((most, rows.shape[1]))
    padded[: len(rows)] = rows
    gathered = accelerator.gather(padded)
    return torch.cat([gathered[at * most : at * most + count] for at, count in enumerate(counts)])


def sum_over_ranks(accelerator: Any, tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all ranks; every rank gets the sum."""
    if accelerator.num_processes == 1:
        return tensor
    summed: torch.Tensor = accelerator.reduce(tensor, reduction="sum")
    return summed


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient with its sum over the ranks; a missing gradient counts as zero."""
    bucket: list[torch.Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if bucket and sum(gradient.numel() for gradient in bucket) + parameter.numel() > NUMBERS_AT_A_TIME:
            _sum_bucket(bucket)
            bucket = []
        bucket.append(parameter.grad)
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(gradients: list[torch.Tensor]) -> None:
    if are_adjacent(gradients):  # as captured passes keep them
        distributed.all_reduce(gradients[0].as_strided((sum(one.numel() for one in gradients),), (1,)))
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, summed in zip(gradients, parts, strict=True):
        gradient.copy_(summed.view_as(gradient))


def wrapper_sums_gradients(
    accelerator: Any, model: torch.nn.Module, *, when: bool
) -> AbstractContextManager[Any]:
    """Return a context in which DDP or FSDP sums gradients in the backward pass, or does not.

    Args:
        accelerator: The run's `Accelerator`.
        model: The prepared model.
        when: Whether to sum; true in the last backward pass of a step.
    """
    context: AbstractContextManager[Any] = nullcontext() if when else accelerator.no_sync(model)
    return context


def broadcast_from_main(accelerator: Any, value: Any) -> Any:
    """Return the main rank's value on every rank.

    Args:
        accelerator: The run's `Accelerator`.
        value: Value that can be pickled; ignored on the other ranks.
    """
    shared = [value]
    if accelerator.num_processes > 1:
        shared = broadcast_object_list(shared)
    return shared[0]


def of_all_ranks(accelerator: Any, value: Any) -> list[Any]:
    """Return the values of all ranks, in the order of the ranks; every rank gets the list.

    Args:
        accelerator: The run's `Accelerator`.
        value: Value of this rank that can be pickled.
    """
    values: list[Any] = [value] if accelerator.num_processes == 1 else gather_object([value])
    return values


def gloo_group(accelerator: Any) -> Any:
    """Return a process group of all ranks over gloo, or None if a rank cannot join it.

    An exchange over gloo stays on the host, and does not wait for work that is queued on a GPU.
    """
    group, joined = None, True
    try:
        group = distributed.new_group(backend="gloo")
    except RuntimeError:
        joined = False
    ranks = accelerator.reduce(torch.tensor(int(joined), device=accelerator.device), reduction="sum")
    return group if int(ranks) == accelerator.num_processes else None


def highest_of_ranks(group: Any, number: int) -> int:
    """Return the maximum of a number over all ranks.

    Args:
        group: Process group over gloo.
        number: Number of this rank.
    """
    shared = torch.tensor(number)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX, group=group)
    return int(shared)
