"""Number of processors that a process may use, and how long its threads spin while they wait."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["LAUNCHER_VARIABLES", "available_processors", "limit_spinning", "threads_chosen_by_user"]

SPINS = 2000
"""Rounds that a thread spins before it sleeps: 40 to 100 microseconds, about the cost of waking it.

The default of libgomp is 300,000. A thread spins that long even if the thread it waits for has no processor
because another program uses it: training took 1.8 times as long (docs/results.md). Without
any spinning every wait is a system call.
"""
CGROUP = Path("/sys/fs/cgroup")
"""Folder of the container's limits."""
USER_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
LAUNCHER_VARIABLES = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""Variables that `accelerate launch` and `torchrun` set; both limit a process to one thread by default."""


def limit_spinning() -> None:
    """Let waiting OpenMP threads sleep soon, unless the environment sets how they wait.

    The libraries read the environment once, when they are loaded, so call this before torch is imported.
    https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
    """
    if not any(name in os.environ for name in USER_POLICIES):
        os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT=str(SPINS))


def available_processors() -> int:
    """Return the number of processors that this process may use, from its affinity and container quota.

    A quota of 1.5 processors counts as 2. `LOKY_MAX_CPU_COUNT` lowers the number.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = (_container_quota(), _whole_number(os.environ.get("LOKY_MAX_CPU_COUNT")))
    return min([count, *(limit for limit in limits if limit is not None)])


def _container_quota() -> int | None:
    """Return the processors' time that the container may use, rounded up to processors; None if unlimited.

    https://docs.kernel.org/admin-guide/cgroup-v2.html and, for version 1, scheduler/sched-bwc.html.
    """
    try:
        if (CGROUP / "cpu.max").exists():
            quota, period = (CGROUP / "cpu.max").read_text().split()
        else:
            quota, period = (
                (CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
    except (OSError, ValueError):
        return None
    given, of = _whole_number(quota), _whole_number(period)
    return math.ceil(given / of) if given and of else None


def _whole_number(text: str | None) -> int | None:
    """Return a positive whole number; None for anything else, such as `max` and -1."""
    return int(text) if text is not None and text.isdecimal() and int(text) else None


def threads_chosen_by_user() -> bool:
    """Return whether `OMP_NUM_THREADS` is the choice of the user, not the single thread of a launcher."""
    value = os.environ.get("OMP_NUM_THREADS")
    launched = any(name in os.environ for name in LAUNCHER_VARIABLES)
    return value is not None and not (launched and value == "1")
