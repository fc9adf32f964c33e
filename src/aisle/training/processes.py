"""The processes of a program: one without a launcher, several under `accelerate launch` or torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

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
            self.state.wait_for_everyone()


def launched_processes() -> Processes:
    """Return this process's place, and join the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    from accelerate import PartialState
    from accelerate.utils import InitProcessGroupKwargs

    options = InitProcessGroupKwargs(timeout=LONGEST_WAIT).to_kwargs()
    cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}
    state = PartialState(cpu=cpu, **options)
    return Processes(state.process_index, state.num_processes, str(state.device), state)
