"""A directory that changes as a whole: built beside the old one, then switched by renaming.

    .NAME.building-*   being built; removed by the next build once its builder is gone
    .NAME.replaced     the old one while the new one moves in; between the two renames there is no NAME

A crash at any moment leaves the old or the new directory as NAME, or the old one as `.NAME.replaced`, which
readers take in its place and the next build moves back. POSIX only: it needs renames that replace and locks
that end with their process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aisle.durable import sync
from aisle.errors import IndexIntegrityError, IndexStoreError
from aisle.index.manifest import INDEX_FILES, MANIFEST_FILE, read_manifest
from aisle.index.store import writing

__all__ = ["current_directory", "refuse_occupied", "staged"]


def current_directory(index_dir: Path) -> Path:
    """Return the directory to read: `index_dir`, or what a switch in progress or cut short has put aside."""
    replaced = _replaced(index_dir)
    return replaced if not index_dir.exists() and replaced.is_dir() else index_dir


def refuse_occupied(index_dir: Path, *, overwrite: bool) -> None:
    """Check that an index may be put at `index_dir`.

    Raises:
        IndexStoreError: an index is there and `overwrite` is off, or something else is there.
    """
    if not index_dir.exists() or (index_dir.is_dir() and not any(index_dir.iterdir())):
        return
    if not index_dir.is_dir():
        raise IndexStoreError(f"{index_dir}: must be a directory, found a file; choose another index_dir")
    try:
        read_manifest(index_dir)
    except IndexIntegrityError as error:
        raise IndexStoreError(
            f"{index_dir}: not empty and not an index, so it is not overwritten; choose another index_dir or "
            f"remove it yourself ({error})"
        ) from None
    if not overwrite:
        raise IndexStoreError(
            f"{index_dir}: an index is already there; replace it with --overwrite_index_dir (overwrite=True)"
        )
    foreign = sorted({path.name for path in index_dir.iterdir()} - {MANIFEST_FILE, *INDEX_FILES})
    if foreign:
        raise IndexStoreError(
            f"{index_dir}: holds {foreign[0]!r}, which is not of the index and would be lost; move it away"
        )


@contextmanager
def staged(index_dir: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a directory to fill; it moves to `index_dir` when the block ends, and goes when the block fails.

    Raises:
        IndexStoreError: `index_dir` may not be replaced, or the system refuses.
    """
    with writing(index_dir):
        index_dir.parent.mkdir(parents=True, exist_ok=True)
        _recover(index_dir)
        refuse_occupied(index_dir, overwrite=overwrite)
        _remove_abandoned(index_dir)
        building = index_dir.with_name(f".{index_dir.name}.building-{uuid.uuid4().hex[:12]}")
        building.mkdir()
        descriptor = os.open(building, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield building
        with writing(index_dir):
            for path in (*building.iterdir(), building):
                sync(path)
            refuse_occupied(index_dir, overwrite=overwrite)  # a build takes long: look again
            _switch(building, index_dir)
    finally:
        os.close(descriptor)
        shutil.rmtree(building, ignore_errors=True)


def _switch(building: Path, index_dir: Path) -> None:
    """Rename the new directory into place; the old one is aside in between and removed in the end."""
    replaced = _replaced(index_dir)
    had_old = index_dir.exists()
    if had_old:
        os.rename(index_dir, replaced)
    try:
        os.rename(building, index_dir)
    except OSError:
        if had_old:
            os.rename(replaced, index_dir)
        raise
    sync(index_dir.parent)
    if had_old:
        # The new index is in place; what cannot be removed now is removed by the next build.
        shutil.rmtree(replaced, ignore_errors=True)


def _recover(index_dir: Path) -> None:
    """Finish or undo a switch that was cut short."""
    replaced = _replaced(index_dir)
    if not replaced.is_dir():
        return
    if index_dir.exists() and any(index_dir.iterdir()):
        shutil.rmtree(replaced)
    else:
        os.rename(replaced, index_dir)
        sync(index_dir.parent)


def _remove_abandoned(index_dir: Path) -> None:
    """Remove what builds left that no longer run."""
    prefix = f".{index_dir.name}.building-"
    for path in [path for path in index_dir.parent.iterdir() if path.name.startswith(prefix)]:
        with suppress(OSError):  # another build's business, or already gone
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Mark a directory as in use until this process ends."""
    # Where a file system has no such locks (NFS), _remove_abandoned cannot lock either and removes nothing.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _replaced(index_dir: Path) -> Path:
    return index_dir.with_name(f".{index_dir.name}.replaced")
