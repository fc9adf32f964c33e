"""Processes of a program: one without a launcher, several under `accelerate launch` or torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from aisle.errors import ConfigError

LONGEST_WAIT = timedelta(days=7)
"""Limit for a collective. Torch's own is minutes, and processes wait while the first reads a catalogue."""


@dataclass(frozen=True)
class Processes:
    """This process and the number of processes that were launched with it.

    Args:
        index: Rank of this process.
        count: Number of processes.
        device: Device that this process computes on; None is the default device.
        state: Accelerate's `PartialState`; None without a launcher.
    """

    index: int = 0
    count: int = 1
    device: str | None = None
    state: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which reads, writes and prints."""
        return self.index == 0

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.state is not None:
            from aisle.training.distributed import wait_for_all  # loads torch

            wait_for_all(self.state)


def launched_processes() -> Processes:
    """Join the process group, and return this process.

    Raises:
        ConfigError: The launched processes do not find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    from accelerate import PartialState
    from accelerate.utils import InitProcessGroupKwargs

    options = InitProcessGroupKwargs(timeout=LONGEST_WAIT).to_kwargs()
    state = PartialState(cpu=must_use_cpu(), **options)
    check_count(state.num_processes)
    return Processes(state.process_index, state.num_processes, str(state.device), state)


def must_use_cpu() -> bool:
    """Return whether Accelerate has to be told to compute on the CPU.

    That is when the launcher asks for it; when there are several processes and no accelerator, as each would
    otherwise run as the only process; and on Apple's MPS, which aisle does not support.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None and accelerator.type == "mps":
        return True
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return asked or (several and not torch.accelerator.is_available())


def check_count(found: int) -> None:
    """Refuse to run if processes did not find each other: they would overwrite each other's files.

    Args:
        found: Processes in the process group.

    Raises:
        ConfigError: More were launched.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if found < launched:
        raise ConfigError(
            f"{launched} processes were launched and {found} found each other; launch them with "
            f"`accelerate launch --num_processes {launched}`, or set ACCELERATE_USE_CPU=true for the CPU"
        )
