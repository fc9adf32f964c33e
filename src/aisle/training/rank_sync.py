"""Processes that go on together or not at all: what each does alone, and how the others hear that it failed.

A process that runs out of memory would leave the others waiting for it in the next collective operation,
until that times out. So each says, after a part of a step that it does alone, whether it has done it. The
hosts say so to each other, over gloo: a GPU's queue is not waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from aisle.training.out_of_memory import is_out_of_memory

NUMBERS_AT_A_TIME = 1 << 23
"""Gradients are summed in buckets of so many numbers, or of one parameter."""


class OutOfMemoryElsewhereError(torch.OutOfMemoryError):
    """Another process of the run has no memory left."""


@dataclass(frozen=True)
class Agreement:
    """What the processes of a run agree on.

    Args:
        group: the processes, over gloo.
    """

    group: Any

    @classmethod
    def of_all(cls, accelerator: Any) -> Agreement | None:
        """Return the agreement of all processes, or None where some cannot talk over gloo; call on each.

        Args:
            accelerator: knows the processes.
        """
        group, talks = None, True
        try:
            group = distributed.new_group(backend="gloo")
        except RuntimeError:
            talks = False
        talking = accelerator.reduce(torch.tensor(int(talks), device=accelerator.device), reduction="sum")
        return cls(group) if int(talking) == accelerator.num_processes else None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block that talks to no other process, to its end in all or in none.

        Raises:
            RuntimeError: the block's, where memory ran out in it.
            OutOfMemoryElsewhereError: memory ran out in another process.
        """
        failed: RuntimeError | None = None
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failed = error
        try:
            if self.highest(int(failed is not None)):
                raise failed or OutOfMemoryElsewhereError("out of memory in another process")
        finally:
            failed = None  # its traceback holds this frame, and so all that the block had in memory

    def highest(self, number: int) -> int:
        """Return the highest of the processes' numbers."""
        shared = torch.tensor(number)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX, group=self.group)
        return int(shared)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give every process the sum of the gradients of all; one that a process lacks counts as zero."""
    bucket: list[torch.Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if bucket and sum(one.numel() for one in bucket) + parameter.numel() > NUMBERS_AT_A_TIME:
            _sum_bucket(bucket)
            bucket = []
        bucket.append(parameter.grad)
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(gradients: list[torch.Tensor]) -> None:
    flat = torch.cat([one.reshape(-1) for one in gradients])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [one.numel() for one in gradients])
    for gradient, summed in zip(gradients, parts, strict=True):
        gradient.copy_(summed.view_as(gradient))
