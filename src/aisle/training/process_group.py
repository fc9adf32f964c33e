"""The processes of a program: one without a launcher, several under `accelerate launch` or torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from aisle.errors import ConfigError

LONGEST_WAIT = timedelta(days=7)
"""The others wait while one reads a catalogue; the limit of torch is minutes."""


@dataclass(frozen=True)
class Processes:
    """This process among those that were launched together.

    Args:
        index: of this process.
        count: of all.
        device: that this process computes on; None is the default one.
        state: Accelerate's; None without a launcher.
    """

    index: int = 0
    count: int = 1
    device: str | None = None
    state: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is the one that reads, writes and speaks."""
        return self.index == 0

    def wait(self) -> None:
        """Wait until all are here."""
        if self.state is not None:
            from aisle.training.distributed import wait_for_all  # loads torch

            wait_for_all(self.state)


def launched_processes() -> Processes:
    """Return this process's place, and join the others.

    Raises:
        ConfigError: the processes that were launched do not find each other.
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
    """Refuse to go on where each process would take itself for the only one, and write over the others.

    Args:
        found: processes that know of each other.

    Raises:
        ConfigError: more were launched.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if found < launched:
        raise ConfigError(
            f"{launched} processes were launched and {found} found each other; launch them with "
            f"`accelerate launch --num_processes {launched}`, or set ACCELERATE_USE_CPU=true for the CPU"
        )
