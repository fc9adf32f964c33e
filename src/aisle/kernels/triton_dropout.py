"""Random numbers of the Triton kernels: which of eight neighbours dropout keeps, by a seed on the device.

The seed is drawn from torch's generator of the device: restoring its state repeats the dropout, and a CUDA
graph draws a new seed at every replay.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

RESOLUTION = 1 << 16
"""Rates are rounded to steps of 1 / 65,536."""


def draw_seed(device: torch.device) -> torch.Tensor:
    """Return a seed on the device: (1,) int64. The host does not read it."""
    return torch.randint(1 << 62, (1,), device=device)


def threshold_of(rate: float) -> int:
    """Return the number below which a draw of 16 bits drops its value."""
    return round(rate * RESOLUTION)


def scale_of(rate: float) -> float:
    """Return the factor of kept values, which keeps the expectation."""
    return RESOLUTION / (RESOLUTION - threshold_of(rate))


@triton.jit
def keep_bits(seed: tl.tensor, counters: tl.tensor, threshold: tl.tensor) -> tl.tensor:
    """Return int32 with bit n set where the n-th of 8 neighbours is kept; each counter has other numbers.

    Two neighbours share each of the four random numbers of 32 bits.

    Philox (https://doi.org/10.1145/2063384.2063405) takes about 70 instructions a call. With a call per value
    the kernels would be bound by it, not by memory.
    """
    first, second, third, fourth = tl.randint4x(seed, counters)
    return (
        _two_bits(first, threshold)
        | (_two_bits(second, threshold) << 2)
        | (_two_bits(third, threshold) << 4)
        | (_two_bits(fourth, threshold) << 6)
    )


@triton.jit
def _two_bits(draw: tl.tensor, threshold: tl.tensor) -> tl.tensor:
    low = (draw & 0xFFFF).to(tl.int32)
    high = (draw >> 16).to(tl.int32) & 0xFFFF
    return (low >= threshold).to(tl.int32) | ((high >= threshold).to(tl.int32) << 1)
