"""What a process has of the machine: memory and CPU threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from accelerate.utils.memory import should_reduce_batch_size

from aisle.errors import TrainingError
from aisle.system.processors import available_processors, threads_chosen_by_user


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory used so far: of the GPU on one, of the process elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # Not getrusage: a process inherits the peak of the one that started it.
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the GPU or the CPU has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or bool(should_reduce_batch_size(error))


@contextmanager
def advising_on_memory(where: str, advice: str) -> Iterator[None]:
    """Make a want of memory in the block an error that says what to do about it.

    Raises:
        TrainingError: memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"{where}: out of memory. {advice}") from None
