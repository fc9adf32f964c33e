"""Keep ranks in step when one runs out of memory: all retry, or all stop.

If one rank runs out of memory, the others wait in the next collective until it times out. To prevent this,
the ranks exchange a number over gloo after each part of a step that they compute by themselves: whether
memory ran out on any rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from aisle.training.distributed import gloo_group, highest_of_ranks
from aisle.training.out_of_memory import is_out_of_memory


class OutOfMemoryElsewhereError(torch.OutOfMemoryError):
    """Another rank ran out of memory."""


@dataclass(frozen=True)
class RankSync:
    """Synchronise the ranks of a run over gloo.

    Args:
        group: Process group of all ranks, over gloo.
    """

    group: Any

    @classmethod
    def of_all(cls, accelerator: Any) -> RankSync | None:
        """Return the synchronisation, or None if gloo does not connect all ranks; call on every rank."""
        group = gloo_group(accelerator)
        return None if group is None else cls(group)

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Run a block without collectives; if memory runs out on any rank, raise an error on every rank.

        Raises:
            RuntimeError: This rank ran out of memory.
            OutOfMemoryElsewhereError: Another rank ran out of memory.
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
            failed = None  # its traceback refers to this frame, and keeps the block's tensors in memory

    def highest(self, number: int) -> int:
        """Return the maximum of a number over all ranks."""
        return highest_of_ranks(self.group, number)
