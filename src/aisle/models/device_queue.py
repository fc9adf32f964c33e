"""Queue of batches that a device computes: the host launches the next before it waits for the last."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

_cuda: Any = torch.cuda
BATCHES_IN_FLIGHT = 2
"""Batches that a GPU may still have to compute, so that it always has the next one."""


class DeviceQueue:
    """Copy results from a device to the host in the order of the batches, without waiting for each.

    A GPU copies into pinned memory, while the host prepares the next batches. On a CPU, a batch is complete
    when its pass returns.

    Args:
        device: Device that computes the batches.
    """

    def __init__(self, device: torch.device) -> None:
        self._asynchronous = device.type == "cuda"
        self._waiting: deque[tuple[torch.Tensor, Any, Callable[[np.ndarray], None]]] = deque()

    def add(self, found: torch.Tensor, take: Callable[[np.ndarray], None]) -> None:
        """Pass a batch's result to `take` once it is on the host; at most `BATCHES_IN_FLIGHT` are not yet."""
        if not self._asynchronous:
            take(found.cpu().numpy())
            return
        on_host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        on_host.copy_(found, non_blocking=True)
        copied: Any = _cuda.Event(blocking=True)
        copied.record(_cuda.current_stream(found.device))
        self._waiting.append((on_host, copied, take))
        if len(self._waiting) > BATCHES_IN_FLIGHT:
            self._finish_first()

    def drain(self) -> None:
        """Wait for all batches."""
        while self._waiting:
            self._finish_first()

    def _finish_first(self) -> None:
        on_host, copied, take = self._waiting.popleft()
        copied.synchronize()
        take(on_host.numpy())
