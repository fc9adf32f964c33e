"""CPU threads of a process: an equal share of the processors, or the number that the user gives."""

from __future__ import annotations

import os

import torch

from aisle.system.processors import available_processors, threads_chosen_by_user


def use_cpu_threads(threads: int | None = None, *, processes: int = 1) -> str:
    """Set how many CPU threads this process computes with, and return a line that says how many and why.

    The number does not depend on how busy the machine is: sums over other threads differ in the last bit, and
    a resumed run must end in the same weights.

    Args:
        threads: what the user asks for; None takes `OMP_NUM_THREADS` where the user set it, and else an equal
            share of the processors.
        processes: of the program; those of this machine where a launcher says how many they are.
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
    """Return how many threads of all programs ran or waited to run in the last minute, on average."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none
        return 0.0
