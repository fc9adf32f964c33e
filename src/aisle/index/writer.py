"""Write an index: one writer at a time stages a version, then makes it current."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from aisle.errors import ConfigError, IndexIntegrityError
from aisle.index.array_files import writing
from aisle.index.integrity import file_record
from aisle.index.layout import (
    BUILDING,
    COMMITTING,
    LOCK,
    MANIFEST_FILE,
    SWITCHING,
    VERSIONS,
    StrPath,
    first_version_unfinished,
    version_directory,
    version_numbers,
)
from aisle.index.manifest import Manifest, read_manifest, write_manifest
from aisle.index.version_folders import (
    kept_first,
    lineage,
    refuse_foreign,
    remembered_keep_versions,
    switch,
)
from aisle.io.durable import sync
from aisle.io.lock import take_lock

__all__ = ["Writer", "index_writer"]


@dataclass(frozen=True)
class Writer:
    """Writer of an index's next version; it holds the index's lock."""

    index_dir: Path
    number: int
    """Number of the next version."""
    keep_versions: int
    """Number of versions to keep, including the next version."""

    @property
    def staging(self) -> Path:
        """Folder in which the next version is staged."""
        return self.index_dir / BUILDING / "version"

    @property
    def shards(self) -> Path:
        """Folder of embeddings from which an interrupted build continues."""
        return self.index_dir / BUILDING / "shards"

    def commit(self, manifest: Manifest) -> Manifest:
        """Make the staged files the current version, remove the oldest versions, and return the manifest.

        Ancestors of the new version are kept before abandoned branches, and newer versions before older ones.

        Args:
            manifest: Manifest of the version; number, time, files, ancestors and pruned are filled in.

        Raises:
            IndexStoreError: If a file cannot be written; the previous version stays current.
        """
        with writing(self.index_dir):
            names = sorted(
                path.relative_to(self.staging).as_posix()
                for path in self.staging.rglob("*")
                if path.is_file()
            )
            ancestors = lineage(self.index_dir)
            others = kept_first(version_numbers(self.index_dir), ancestors)
            manifest = replace(
                manifest,
                version=self.number,
                created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                files={name: file_record(self.staging / name) for name in names},
                ancestors=tuple(ancestors),
                keep_versions=self.keep_versions,
                pruned=tuple(sorted(others[self.keep_versions - 1 :])),
            )
            write_manifest(self.staging / MANIFEST_FILE, manifest)
            for path in (*self.staging.rglob("*"), self.staging):
                sync(path)
            target = version_directory(self.index_dir, self.number)
            target.parent.mkdir(exist_ok=True)
            (self.staging.parent / COMMITTING).write_text(str(self.number))
            os.rename(self.staging, target)
            sync(target.parent)
            switch(self.index_dir, target)
        for number in manifest.pruned:
            self._remove(number)
        if (
            manifest.command == "build"
        ):  # other commands leave the embeddings of an unfinished build for the next build
            shutil.rmtree(self.index_dir / BUILDING, ignore_errors=True)
        return manifest

    def _remove(self, number: int) -> None:
        # A single rename hides the version, so that a crash never leaves half of it.
        with suppress(OSError):
            os.rename(version_directory(self.index_dir, number), self.staging)
        shutil.rmtree(self.staging, ignore_errors=True)


@contextmanager
def index_writer(index_dir: StrPath, *, command: str, keep_versions: int | None = None) -> Iterator[Writer]:
    """Hold the lock of an index while the block runs; remove staged files that were not committed.

    Args:
        index_dir: Directory of the index: missing, empty, or an index.
        command: Name of the command, for the message to other processes that want to write.
        keep_versions: Number of versions to keep from now on, including the new one; None keeps the number.

    Raises:
        ConfigError: `keep_versions` is below 1.
        IndexLockedError: Another process is writing the index.
        IndexStoreError: `index_dir` holds something else, or it cannot be locked or written.
    """
    if keep_versions is not None and keep_versions < 1:
        raise ConfigError(f"keep_versions: must be at least 1, found {keep_versions}")
    index_dir = Path(index_dir).resolve()
    refuse_foreign(index_dir)
    with writing(index_dir):
        made = not index_dir.exists()
        index_dir.mkdir(parents=True, exist_ok=True)
        try:
            lock = take_lock(index_dir / LOCK, command)
        except BaseException:
            if made:
                with suppress(OSError):  # not empty: another process created the index meanwhile
                    index_dir.rmdir()
            raise
    _drop_uncommitted(index_dir)
    writer = Writer(
        index_dir,
        number=max(version_numbers(index_dir), default=0) + 1,
        keep_versions=remembered_keep_versions(index_dir) if keep_versions is None else keep_versions,
    )
    try:
        with writing(index_dir):
            shutil.rmtree(writer.staging, ignore_errors=True)
            writer.staging.mkdir(parents=True)
        yield writer
    finally:
        _clear(writer, made=made)
        lock.release()


def _clear(writer: Writer, *, made: bool) -> None:
    """Remove staged files, and the whole directory if its first version was never committed."""
    shutil.rmtree(writer.staging, ignore_errors=True)
    _drop_uncommitted(writer.index_dir)
    with suppress(OSError):  # not empty: it has shards for the next build
        writer.staging.parent.rmdir()
    index_dir = writer.index_dir
    holds = any((index_dir / name).exists() for name in (MANIFEST_FILE, BUILDING))
    if not holds and not version_numbers(index_dir):  # if there are versions, only the manifest is lost
        (index_dir / LOCK).unlink(missing_ok=True)
        for folder in [index_dir / VERSIONS, *([index_dir] if made else [])]:
            with suppress(OSError):
                folder.rmdir()


def _drop_uncommitted(index_dir: Path) -> None:
    """Remove a version that was moved into place but never became current, so that nobody used it."""
    note = index_dir / BUILDING / COMMITTING
    with suppress(OSError, ValueError):
        number = int(note.read_text())
        if _never_served(index_dir, number):
            shutil.rmtree(version_directory(index_dir, number), ignore_errors=True)
    for path in (note, index_dir / SWITCHING):
        with suppress(OSError):
            path.unlink()


def _never_served(index_dir: Path, number: int) -> bool:
    """Return whether a version that was being moved into place never became current."""
    try:
        return read_manifest(index_dir).version != number
    except IndexIntegrityError:  # lost or damaged: the last current version is unknown, so all versions stay
        return first_version_unfinished(index_dir)
