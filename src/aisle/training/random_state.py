"""Save and restore the state of the random number generators that dropout uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class RandomState:
    """State of the random number generators of the CPU and of a device.

    Args:
        device: Device that the model computes on.
        of_cpu: State of the CPU's generator.
        of_device: State of the device's generator; None on the CPU, and where torch cannot read it.
    """

    device: torch.device
    of_cpu: torch.Tensor
    of_device: torch.Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """Return the current state."""
        read: Any = getattr(_device_module(device), "get_rng_state", None)
        return cls(device, torch.get_rng_state(), None if read is None else read(device))

    @property
    def whole(self) -> bool:
        """Whether `restore` restores all generators in use."""
        return self.device.type == "cpu" or self.of_device is not None

    def restore(self) -> None:
        """Set the generators to this state."""
        torch.set_rng_state(self.of_cpu)
        if self.of_device is not None:
            module: Any = _device_module(self.device)
            module.set_rng_state(self.of_device, self.device)


def _device_module(device: torch.device) -> Any:
    """Return torch's module for a device (torch.cuda, torch.mps, torch.xpu, ...), or None for the CPU."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)
