"""The pairs of each step of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aisle.data.batching import epoch_order


@dataclass(frozen=True)
class BatchPlan:
    """The pairs of each step, determined by the seed alone, so that a run can resume at any step.

    Args:
        pairs: Number of training pairs.
        batch_size: Pairs per rank and forward pass.
        num_processes: Number of ranks that share a global batch.
        accumulation: Global batches per step.
        seed: Seed of the shuffled order.
        groups: (pairs,) query of each pair, to keep a query's pairs in the same batch; or group of each text.
        together: Most texts of a group in a batch, unless it has more for each batch; None keeps all.
    """

    pairs: int
    batch_size: int
    num_processes: int
    accumulation: int
    seed: int
    groups: np.ndarray | None = None
    together: int | None = None

    @property
    def pairs_per_step(self) -> int:
        """Number of pairs in a full step."""
        return self.batch_size * self.num_processes * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch; the last may be shorter, so that every pair is used."""
        return -(-self.pairs // self.pairs_per_step)

    def steps(self, epoch: int, *, first_step: int = 0) -> Iterator[list[np.ndarray]]:
        """Yield each step of an epoch, from `first_step` on, as a list of global batches of pair numbers."""
        size = self.batch_size * self.num_processes
        order = epoch_order(
            self.pairs,
            seed=self.seed,
            epoch=epoch,
            groups=self.groups,
            together=self.together,
            batch=size,
        )
        for start in range(first_step * self.pairs_per_step, self.pairs, self.pairs_per_step):
            rows = order[start : start + self.pairs_per_step]
            yield [rows[at : at + size] for at in range(0, len(rows), size)]
