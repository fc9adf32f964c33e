"""Write a folder beside its place; what a stopped or killed process left there is removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

__all__ = ["staged_folder"]


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, and remove it in the end unless it was renamed.

    SIGTERM ends the process as an exception does, so the new folder is removed too. Folders of killed
    processes are removed first: each process holds a lock on its own, which ends with the process.

    Raises:
        OSError: The system refuses to write.
    """
    folder = folder.resolve()
    prefix = f".{folder.name}.writing-"
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in folder.parent.iterdir():
        if path.name.startswith(prefix) and path.is_dir():
            _remove_abandoned(path)
    with _exit_on_sigterm():
        staging, lock = _make_locked(folder.parent, prefix)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(lock)


def _make_locked(parent: Path, prefix: str) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):  # another process took it for an abandoned folder
            descriptor = os.open(made, os.O_RDONLY)
            _lock(descriptor)
            if made.exists():
                return made, descriptor
            os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    """Remove a folder unless a process holds its lock, or the file system has no locks."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if _lock(descriptor):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a folder; return False if another process holds the lock, or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Raise SystemExit at SIGTERM, where it would end the process at once; a second SIGTERM does that."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
