"""What a process has of the machine: memory and CPU threads."""

from __future__ import annotations

import os
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory used so far: of the GPU on one, of the process elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
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
