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


def cpu_threads_hint(num_processes: int) -> str:
    """Return how many CPU threads a process computes with, and how to get more where cores lie idle."""
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    said = f"CPU threads: {threads} of {cores} cores"
    if threads * num_processes >= cores:
        return said
    more = cores // num_processes
    return f"{said}; OMP_NUM_THREADS={more} or accelerate's --num_cpu_threads_per_process {more} uses more"


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
