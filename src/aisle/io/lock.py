"""Let one process write at a time: a file lock that names its holder, and ends with the holder's process."""

from __future__ import annotations

import errno
import json
import os
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.errors import IndexLockedError, IndexStoreError

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["take_lock", "wait_for_lock"]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of a file system that has no locks, as some network file systems."""


def take_lock(path: Path, command: str) -> BaseFileLock:
    """Take a lock and return it; `release`, or the end of the process, gives it back.

    Args:
        path: Path of the lock file, in the folder that it protects.
        command: Name of the holder, for the message to a process that is refused.

    Raises:
        IndexLockedError: Another process holds the lock.
        IndexStoreError: The file system has no locks, so that two writers could not be kept apart.
        OSError: The file cannot be written.
    """
    from filelock import FileLock, Timeout  # takes 20 ms, which a program that only searches does not need

    made = not path.exists()
    lock = FileLock(
        path,
        blocking=False,
        thread_local=False,
        fallback_to_soft=False,  # a soft lock outlives a process that was killed
        on_acquired=lambda descriptor: _write_holder(descriptor, command),
    )
    try:
        lock.acquire()
    except Timeout:
        raise IndexLockedError(f"{path.parent}: {_holder(path)} is writing it; try again later") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if made:
            path.unlink(missing_ok=True)
        raise IndexStoreError(
            f"{path.parent}: its file system refuses the lock that keeps two writers apart: "
            f"{error.strerror or error}; write to a folder on a local disk and copy it, or mount this "
            "one with locks (NFS without nolock, Lustre with flock)"
        ) from error
    return lock


def wait_for_lock(path: Path) -> BaseFileLock:
    """Wait for a lock and return it; `release`, or the end of the process, gives it back.

    Raises:
        OSError: The file cannot be written, or its file system has no locks.
    """
    from filelock import FileLock

    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    lock.acquire()
    return lock


def _write_holder(descriptor: int, command: str) -> None:
    holder = {
        "command": command,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(holder).encode())


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"{holder['command']}, process {holder['pid']} on {holder['host']} since {holder['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
