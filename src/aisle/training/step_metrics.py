"""Metrics of a step, summed over the ranks, and read from the device when they are needed.

The ranks exchange them as float32, because some devices have no float64 (Apple's GPUs and some of Intel's).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from aisle.errors import TrainingError

HALF = 1 << 12
"""Token counts are exchanged as a multiple of this and a remainder, which float32 sums exactly."""


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of a step over all ranks."""

    loss: float
    real_tokens: int
    read_tokens: int
    stop: bool
    gradient_norm: float
    figures: tuple[float, ...] = ()
    """Number of queries that ranked the products of their batches, and the sum of each metric; or nothing."""

    @classmethod
    def read(cls, step: int, summed: torch.Tensor) -> StepMetrics:
        """Return the metrics of a step, after waiting for the device.

        Args:
            step: Number of the step, for the message.
            summed: Sum of `metrics_to_sum` over the ranks, followed by the norm of the gradient.

        Raises:
            TrainingError: The loss is not a finite number.
        """
        loss, high, low, read_high, read_low, stop, *figures, norm = summed.tolist()
        if not math.isfinite(loss):
            raise TrainingError(
                f"step {step}: the loss is {loss}; lower --learning_rate, add "
                "--num_warmup_steps, or train with --mixed_precision bf16 in place of fp16"
            )
        real, read = (int(high) * HALF + int(low), int(read_high) * HALF + int(read_low))
        return cls(loss, real, read, stop > 0, norm, tuple(figures))


class StepMetricsReader:
    """Read the metrics of steps, a step late if the host would otherwise wait for the device.

    Args:
        late: Whether to read a step late, because the device computes asynchronously.
    """

    def __init__(self, *, late: bool) -> None:
        self.late = late
        self._unread: list[tuple[int, torch.Tensor, Any]] = []

    def add(self, step: int, summed: torch.Tensor) -> None:
        """Add the metrics of a step; the device may still be computing them."""
        copied = None
        if summed.device.type == "cuda":
            # Copied now and read later: a copy made later would wait for the steps that started meanwhile.
            summed = torch.empty(summed.shape, pin_memory=True).copy_(summed, non_blocking=True)
            copied = torch.cuda.current_stream().record_event()
        self._unread.append((step, summed, copied))

    def read(self, *, wait: bool) -> list[StepMetrics]:
        """Return the unread metrics: of all steps if `wait`, else without the step that may still compute.

        Raises:
            TrainingError: A loss is not a finite number.
        """
        ready = len(self._unread) if wait or not self.late else len(self._unread) - 1
        found, self._unread = self._unread[:ready], self._unread[ready:]
        return [_read(*one) for one in found]


def _read(step: int, summed: torch.Tensor, copied: Any) -> StepMetrics:
    if copied is not None:
        copied.synchronize()
    return StepMetrics.read(step, summed)


def metrics_to_sum(
    loss: torch.Tensor,
    *,
    real_tokens: int,
    read_tokens: int,
    stop: bool,
    figures: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return a rank's metrics in a single tensor on the device of the loss: (6 + figures,) float32."""
    work = [*divmod(real_tokens, HALF), *divmod(read_tokens, HALF), stop]
    shared = torch.tensor(work, dtype=torch.float32).to(loss.device, non_blocking=True)
    return torch.cat([loss.float().reshape(1), shared, *([] if figures is None else [figures])])
