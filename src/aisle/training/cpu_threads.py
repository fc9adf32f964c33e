"""Set the number of CPU threads of a process: an equal share of the processors, or the user's number."""

from __future__ import annotations

import os

import torch

from aisle.system.processors import available_processors, threads_chosen_by_user


def use_cpu_threads(threads: int | None = None, *, processes: int = 1) -> str:
    """Set the number of CPU threads of this process; return a line that gives it and the reason.

    The number does not depend on the load of the machine. With another number of threads, sums differ in the
    last bit, and a resumed run must end in the same weights.

    Args:
        threads: Number that the user gave; None takes `OMP_NUM_THREADS` if the user set it, otherwise an
            equal share of the processors.
        processes: Number of processes, if the launcher does not give their number on this machine.
    """
    processors = available_processors()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if threads is not None:
        why = "--threads"
    elif threads_chosen_by_user():
        threads, why = torch.get_num_threads(), "OMP_NUM_THREADS"
    else:
        threads, why = max(1, processors // here), "an equal share; --threads N sets another number"
    torch.set_num_threads(threads)
    line = f"CPU threads: {threads} in each process, for {processors} processors ({why})"
    if threads * here > processors:
        line += f"; {here} processes here have more threads than there are processors, which is slow"
    load = _load()
    if load > max(1.0, processors / 2):
        line += f"; other programs are busy on this machine (load {load:.1f}), and training will take longer"
    return line


def _load() -> float:
    """Return the load: mean number of threads of all programs that ran or waited in the last minute."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # not available on Windows
        return 0.0
