"""Write an index: one writer at a time makes a version beside the current one, then switches to it."""

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
    """Holder of an index's lock, with the folders for its next version."""

    index_dir: Path
    number: int
    """Number of the next version."""
    keep_versions: int
    """Versions to keep, the next one included."""

    @property
    def staging(self) -> Path:
        """Folder of the version in the making."""
        return self.index_dir / BUILDING / "version"

    @property
    def shards(self) -> Path:
        """Folder for embeddings that the next build may go on from."""
        return self.index_dir / BUILDING / "shards"

    def commit(self, manifest: Manifest) -> Manifest:
        """Make the staged files a version and the current one, remove the oldest; return its manifest.

        The current version and those it was made from are kept before abandoned branches, and those before
        older ones.

        Args:
            manifest: Manifest of the version; number, time, files, ancestors and pruned are filled in.

        Raises:
            IndexStoreError: A file cannot be written; the version before stays current.
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
        if manifest.command == "build":  # others leave what an unfinished build embedded to the next one
            shutil.rmtree(self.index_dir / BUILDING, ignore_errors=True)
        return manifest

    def _remove(self, number: int) -> None:
        # Out of sight in one go: a crash leaves no half of a version.
        with suppress(OSError):
            os.rename(version_directory(self.index_dir, number), self.staging)
        shutil.rmtree(self.staging, ignore_errors=True)


@contextmanager
def index_writer(index_dir: StrPath, *, command: str, keep_versions: int | None = None) -> Iterator[Writer]:
    """Hold the lock of an index while the block runs; what it staged and did not commit is removed.

    Args:
        index_dir: Missing, empty, or an index.
        command: Name of the command, for the message to other processes that want to write.
        keep_versions: Versions to keep from now on, the next one included; None is as many as before.

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
                with suppress(OSError):  # not empty: another process has just made it as well
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
    """Remove what was staged, and all of an index that did not come to be."""
    shutil.rmtree(writer.staging, ignore_errors=True)
    _drop_uncommitted(writer.index_dir)
    with suppress(OSError):  # not empty: shards are there to go on from
        writer.staging.parent.rmdir()
    index_dir = writer.index_dir
    holds = any((index_dir / name).exists() for name in (MANIFEST_FILE, BUILDING))
    if not holds and not version_numbers(index_dir):  # where versions are, only the manifest is lost
        (index_dir / LOCK).unlink(missing_ok=True)
        for folder in [index_dir / VERSIONS, *([index_dir] if made else [])]:
            with suppress(OSError):
                folder.rmdir()


def _drop_uncommitted(index_dir: Path) -> None:
    """Remove a version that was moved into place and did not become the current one: it never served."""
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
    except IndexIntegrityError:  # lost or damaged: which version served is unknown, so all stay
        return first_version_unfinished(index_dir)
