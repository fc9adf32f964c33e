"""One writer at a time: a file lock that says who holds it, and ends with its process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from aisle.errors import IndexLockedError, IndexStoreError

__all__ = ["take_lock"]


def take_lock(path: Path, command: str) -> int:
    """Return the descriptor that holds a lock; closing it, or the end of the process, gives the lock back.

    Args:
        path: of the lock's file, in the folder that it is for.
        command: told to whoever else wants it.

    Raises:
        IndexLockedError: another process holds it.
        IndexStoreError: the file system has no locks, so that nobody could be kept out.
        OSError: the file cannot be written.
    """
    while True:
        made = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise IndexLockedError(f"{path.parent}: {_holder(path)} is writing it; try again later") from None
        except OSError as error:
            # Some network file systems: without a lock two writers would write over each other.
            os.close(descriptor)
            if made:
                path.unlink(missing_ok=True)
            raise IndexStoreError(
                f"{path.parent}: its file system refuses the lock that keeps two writers apart: "
                f"{error.strerror or error}; write to a folder on a local disk and copy it, or mount this "
                "one with locks (NFS without nolock, Lustre with flock)"
            ) from error
        # The last holder may have removed the file between our opening and locking it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        os.close(descriptor)
    holder = {
        "command": command,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(holder).encode())
    return descriptor


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"{holder['command']}, process {holder['pid']} on {holder['host']} since {holder['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
