"""Peak memory of a process, for the log and metrics.json."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory so far, of the GPU or, without a GPU, of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # getrusage would return the peak of the parent process if that is higher.
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
