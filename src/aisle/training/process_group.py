"""Process group of a program: a single process, or several started by `accelerate launch` or torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from aisle.errors import ConfigError

LONGEST_WAIT = timedelta(days=7)
"""Timeout of a collective. Torch's default is minutes, but ranks wait while the first reads a catalogue."""


@dataclass(frozen=True)
class Processes:
    """Rank of this process, and the number of processes launched together.

    Args:
        index: Rank of this process.
        count: Number of processes.
        device: Device of this process; None means the default device.
        state: `PartialState` of Accelerate; None without a launcher.
    """

    index: int = 0
    count: int = 1
    device: str | None = None
    state: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which reads and writes files and prints."""
        return self.index == 0

    def wait(self) -> None:
        """Wait until every process has called this method."""
        if self.state is not None:
            from aisle.training.distributed import wait_for_all  # loads torch

            wait_for_all(self.state)


def launched_processes() -> Processes:
    """Join the process group, and return this process's place in it.

    Raises:
        ConfigError: The launched processes did not connect.
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
    """Return whether to pass `cpu=True` to Accelerate.

    There are three cases: the launcher asks for the CPU; several processes run without a GPU or another
    accelerator, where each would otherwise start as a single process; or the device is Apple's MPS, which
    aisle does not support.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None and accelerator.type == "mps":
        return True
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return asked or (several and not torch.accelerator.is_available())


def check_count(found: int) -> None:
    """Refuse to run if the process group is incomplete: processes would overwrite each other's files.

    Args:
        found: Number of processes in the process group.

    Raises:
        ConfigError: More processes were launched than are in the group.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if found < launched:
        raise ConfigError(
            f"{launched} processes were launched, but the process group has {found}; launch them with "
            f"`accelerate launch --num_processes {launched}`, or set ACCELERATE_USE_CPU=true for the CPU"
        )
