"""Memory that a process can still take: of the machine, or of its container if that has less."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["available_memory"]

MACHINE = Path("/proc/meminfo")
GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Files of control groups, version 2 and 1: folder, limit, use, and the name in memory.stat of the pages of
files that the kernel can drop."""


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that are available; None if the system does not report it.

    Args:
        root: Root of the file system, for tests.
    """
    found = []
    with suppress(OSError, ValueError, KeyError):
        found.append(1024 * _named(root / MACHINE.relative_to("/"), "MemAvailable:"))
    for folder, limit, use, droppable in GROUPS:
        group = root / folder.lstrip("/")
        with suppress(OSError, ValueError, KeyError):  # "max" is no number: there is no limit
            used = int((group / use).read_text()) - _named(group / "memory.stat", droppable)
            found.append(int((group / limit).read_text()) - used)
    return max(0, min(found)) if found else None


def _named(path: Path, name: str) -> int:
    """Return the number after a name at the start of a line.

    Raises:
        KeyError: No line begins with the name.
    """
    lines = (line.split() for line in path.read_text().splitlines())
    return int({words[0]: words[1] for words in lines if len(words) > 1}[name])
