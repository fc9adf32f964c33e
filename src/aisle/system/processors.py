"""The processors that a process may use, and how its threads wait for each other."""

from __future__ import annotations

import os

__all__ = ["LAUNCHER_VARIABLES", "available_processors", "limit_spinning", "threads_chosen_by_user"]

SPINS = 2000
"""Rounds that a thread spins before it sleeps: 40 to 100 microseconds, about what waking it costs.

libgomp's own default is 300,000. A thread spins that long while the one it waits for has no processor,
because another program has it: training took 1.8 times as long (docs/results.md). Without
any spinning every wait is a system call.
"""
USER_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
LAUNCHER_VARIABLES = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""What `accelerate launch` and `torchrun` set; both give a process one thread unless told otherwise."""


def limit_spinning() -> None:
    """Let OpenMP's threads sleep soon where they wait, unless the environment says how they shall wait.

    The libraries read the environment once, when they are loaded: call this before torch is imported.
    https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
    """
    if not any(name in os.environ for name in USER_POLICIES):
        os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT=str(SPINS))


def available_processors() -> int:
    """Return how many processors this process may use: by its affinity and its container's quota.

    A quota of 1.5 processors counts as 2. `LOKY_MAX_CPU_COUNT` lowers the number.
    """
    from joblib import cpu_count  # slow to import

    return int(cpu_count())


def threads_chosen_by_user() -> bool:
    """Return whether `OMP_NUM_THREADS` is the user's choice, not the one thread that a launcher gives."""
    value = os.environ.get("OMP_NUM_THREADS")
    launched = any(name in os.environ for name in LAUNCHER_VARIABLES)
    return value is not None and not (launched and value == "1")
