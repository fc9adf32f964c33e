"""The figures of a step, summed over processes and read from the device when they are needed.

They travel as float32: not every device has float64 (Apple's GPUs and some of Intel's do not).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from aisle.errors import TrainingError

HALF = 1 << 12
"""A count of tokens travels as a multiple of it and a rest, whose sums float32 holds exactly."""


@dataclass(frozen=True)
class StepMetrics:
    """What a step was, over all processes."""

    loss: float
    real_tokens: int
    read_tokens: int
    stop: bool
    gradient_norm: float

    @classmethod
    def read(cls, step: int, figures: torch.Tensor) -> StepMetrics:
        """Return the figures of a step; waits for the device.

        Args:
            step: its number, for the message.
            figures: the sum over processes of what `metrics_to_sum` gives, and the gradient's norm.

        Raises:
            TrainingError: the loss is no number any more.
        """
        loss, high, low, read_high, read_low, stop, norm = figures.tolist()
        if not math.isfinite(loss):
            raise TrainingError(
                f"step {step}: the loss is {loss}; lower --learning_rate, add "
                "--num_warmup_steps, or train with --mixed_precision bf16 in place of fp16"
            )
        real, read = (int(high) * HALF + int(low), int(read_high) * HALF + int(read_low))
        return cls(loss, real, read, stop > 0, norm)


def metrics_to_sum(loss: torch.Tensor, *, real_tokens: int, read_tokens: int, stop: bool) -> torch.Tensor:
    """Return a process's figures as one tensor on the device of the loss, (6,) float32."""
    work = [*divmod(real_tokens, HALF), *divmod(read_tokens, HALF), stop]
    shared = torch.tensor(work, dtype=torch.float32).to(loss.device, non_blocking=True)
    return torch.cat([loss.float().reshape(1), shared])
