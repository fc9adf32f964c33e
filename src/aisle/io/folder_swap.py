"""Replace a folder by a finished one, so that no error takes the earlier folder away."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from pathlib import Path

from aisle.io.durable import sync

__all__ = ["put_in_place", "why_irreplaceable"]

CURRENT_FOLDER = -100
"""AT_FDCWD of Linux: relative paths start at the current folder."""
EXCHANGE = 2
"""RENAME_EXCHANGE of Linux's renameat2."""


def put_in_place(staging: Path, folder: Path) -> None:
    """Rename a finished folder beside `folder` to `folder`, in place of an earlier one.

    Linux exchanges the two folders in one step. Where the system or the file system cannot, the earlier
    folder is renamed first, and renamed back after an error.

    Raises:
        OSError: The system refuses to write; an earlier folder is where it was.
    """
    folder = folder.resolve()
    if not folder.exists():
        staging.rename(folder)
    elif exchange(staging, folder):
        shutil.rmtree(staging, ignore_errors=True)
    else:
        earlier = Path(tempfile.mkdtemp(prefix=f".{folder.name}.earlier-", dir=folder.parent))
        try:
            folder.rename(earlier / folder.name)
            staging.rename(folder)
        except BaseException:
            if (earlier / folder.name).exists():
                (earlier / folder.name).rename(folder)
            earlier.rmdir()
            raise
        shutil.rmtree(earlier, ignore_errors=True)
    sync(folder.parent)


def why_irreplaceable(folder: Path) -> str | None:
    """Return why a folder cannot be replaced, for a message before the work; None if nothing is known."""
    folder = folder.resolve()
    if folder == Path.cwd():
        return "is the current folder, which cannot be replaced; give a folder in it"
    if folder.is_mount():
        return "is where a disk is mounted, which cannot be replaced; give a folder in it"
    return None


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return False, with nothing changed, if that fails."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(CURRENT_FOLDER, os.fsencode(one), CURRENT_FOLDER, os.fsencode(other), EXCHANGE)
    return done == 0
