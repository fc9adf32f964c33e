"""Versions of an index side by side: made apart, switched by renaming one file, kept for a while.

    manifest.json          the current version's manifest: a rename replaces it, so readers see old or new
    versions/000003/       a version: its files and its own manifest; never changed once it is there
    lock                   held by whoever writes, and says who
    .building/version/     a version in the making; the next writer removes what a dead one left
    .building/shards/      embeddings of a build that did not finish; the next one goes on from them
    .building/committing   number of a version that is being moved into place

A crash at any moment leaves the old or the new version current, whole. POSIX only: it needs renames that
replace and locks that end with their process.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from aisle.durable import sync
from aisle.errors import IndexIntegrityError, IndexStoreError
from aisle.index.manifest import (
    MANIFEST_FILE,
    Manifest,
    file_record,
    read_manifest,
    verify_files,
    write_manifest,
)
from aisle.index.store import writing
from aisle.lock import take_lock

__all__ = [
    "Version",
    "Writer",
    "current_directory",
    "index_writer",
    "list_versions",
    "refuse_foreign",
    "rollback",
    "version_directory",
]

VERSIONS = "versions"
LOCK = "lock"
BUILDING = ".building"
COMMITTING = "committing"
SWITCHING = ".manifest.json.writing"
OURS = {MANIFEST_FILE, SWITCHING, VERSIONS, LOCK, BUILDING}


@dataclass(frozen=True)
class Version:
    """One version of an index."""

    number: int
    manifest: Manifest | None
    """None where it cannot be read."""
    current: bool
    problem: str | None = None
    """Why it cannot be read."""


@dataclass(frozen=True)
class Writer:
    """The right to write an index, and where its next version is made."""

    index_dir: Path
    number: int
    """Of the next version."""

    @property
    def staging(self) -> Path:
        """Folder of the version in the making."""
        return self.index_dir / BUILDING / "version"

    @property
    def shards(self) -> Path:
        """Folder for embeddings that the next build may go on from."""
        return self.index_dir / BUILDING / "shards"

    def commit(self, manifest: Manifest, *, keep_versions: int) -> Manifest:
        """Make the staged files a version and the current one, remove the oldest; return its manifest.

        Args:
            manifest: of the version; number, time and files are filled in.
            keep_versions: versions to keep, the new one included.

        Raises:
            IndexStoreError: a file cannot be written; the version before stays current.
        """
        with writing(self.index_dir):
            names = sorted(
                path.relative_to(self.staging).as_posix()
                for path in self.staging.rglob("*")
                if path.is_file()
            )
            manifest = replace(
                manifest,
                version=self.number,
                created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                files={name: file_record(self.staging / name) for name in names},
            )
            write_manifest(self.staging / MANIFEST_FILE, manifest)
            for path in (*self.staging.rglob("*"), self.staging):
                sync(path)
            target = version_directory(self.index_dir, self.number)
            target.parent.mkdir(exist_ok=True)
            (self.staging.parent / COMMITTING).write_text(str(self.number))
            os.rename(self.staging, target)
            sync(target.parent)
            _switch(self.index_dir, target)
        self._prune(keep_versions)
        if manifest.command == "build":  # others leave what an unfinished build embedded to the next one
            shutil.rmtree(self.index_dir / BUILDING, ignore_errors=True)
        return manifest

    def _prune(self, keep_versions: int) -> None:
        # The newest stay, and so does the current one, which may be older after a rollback.
        numbers = _numbers(self.index_dir)
        for number in numbers[: max(len(numbers) - keep_versions, 0)]:
            if number != _current(self.index_dir):
                # Out of sight in one go: a crash leaves no half of a version.
                with suppress(OSError):
                    os.rename(version_directory(self.index_dir, number), self.staging)
                shutil.rmtree(self.staging, ignore_errors=True)


def version_directory(index_dir: Path, number: int) -> Path:
    """Return the folder of a version."""
    return index_dir / VERSIONS / f"{number:06d}"


def refuse_foreign(index_dir: Path) -> None:
    """Check that an index may be written to `index_dir`.

    Raises:
        IndexStoreError: something is there that is not of an index.
    """
    if not index_dir.exists():
        return
    if not index_dir.is_dir():
        raise IndexStoreError(f"{index_dir}: must be a directory, found a file; choose another index_dir")
    foreign = sorted({path.name for path in index_dir.iterdir()} - OURS)
    if foreign:
        what = f"{foreign[0]!r}, which is not of an index of this format"
        raise IndexStoreError(f"{index_dir}: holds {what}; choose another index_dir, or move it away")
    if (index_dir / MANIFEST_FILE).exists():
        try:
            read_manifest(index_dir)
        except IndexIntegrityError:
            # A damaged manifest over versions is ours to mend, by a build or a rollback.
            if not _numbers(index_dir):
                raise


@contextmanager
def index_writer(index_dir: Path, *, command: str) -> Iterator[Writer]:
    """Hold the lock of an index while the block runs; what it staged and did not commit is removed.

    Args:
        index_dir: missing, empty, or an index.
        command: told to whoever else wants to write.

    Raises:
        IndexLockedError: another process writes it.
        IndexStoreError: something else is in `index_dir`, or the system refuses.
    """
    index_dir = Path(index_dir).resolve()
    refuse_foreign(index_dir)
    with writing(index_dir):
        made = not index_dir.exists()
        index_dir.mkdir(parents=True, exist_ok=True)
        lock = take_lock(index_dir / LOCK, command)
    _drop_uncommitted(index_dir)
    writer = Writer(index_dir, number=max(_numbers(index_dir), default=0) + 1)
    try:
        with writing(index_dir):
            shutil.rmtree(writer.staging, ignore_errors=True)
            writer.staging.mkdir(parents=True)
        yield writer
    finally:
        _clear(writer, made=made)
        os.close(lock)


def list_versions(index_dir: Path) -> list[Version]:
    """Return the versions of an index, oldest first.

    Raises:
        IndexIntegrityError: there is no index, or its manifest is damaged.
    """
    index_dir = Path(index_dir).resolve()
    current = read_manifest(index_dir).version
    found = []
    for number in _numbers(index_dir):
        try:
            manifest = read_manifest(version_directory(index_dir, number))
            found.append(Version(number, manifest, number == current))
        except IndexStoreError as error:
            found.append(Version(number, None, number == current, str(error)))
    return found


def rollback(index_dir: Path, *, to: int | None = None) -> Manifest:
    """Make an older version the current one, after checking it whole; return its manifest.

    Args:
        index_dir: of the index.
        to: number of the version; None is the newest one before the current, or the newest of all where the
            current manifest is damaged.

    Raises:
        IndexStoreError: there is no such version, it is damaged, or another process writes the index.
    """
    if not (Path(index_dir) / MANIFEST_FILE).exists():
        read_manifest(Path(index_dir))  # says that there is no index
    with index_writer(index_dir, command="rollback") as writer:
        numbers, current = _numbers(writer.index_dir), None
        with suppress(IndexIntegrityError):
            current = _current(writer.index_dir)
        older = [number for number in numbers if current is None or number < current]
        number = to if to is not None else max(older, default=None)
        if number not in numbers:
            wanted = "an older version" if number is None else f"version {number}"
            raise IndexStoreError(
                f"{index_dir}: has no {wanted.removeprefix('an ')}; it has {numbers} and "
                f"{current or 'none'} is current"
            )
        assert number is not None  # it is among the numbers
        target = version_directory(writer.index_dir, number)
        manifest = read_manifest(target)
        verify_files(target, manifest.files, verify="checksums")
        with writing(writer.index_dir):
            _switch(writer.index_dir, target)
    return manifest


def _switch(index_dir: Path, version: Path) -> None:
    """Make a version's manifest the current one."""
    beside = index_dir / SWITCHING
    beside.write_bytes((version / MANIFEST_FILE).read_bytes())
    sync(beside)
    os.replace(beside, index_dir / MANIFEST_FILE)
    sync(index_dir)


def _numbers(index_dir: Path) -> list[int]:
    folder = index_dir / VERSIONS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def _clear(writer: Writer, *, made: bool) -> None:
    """Remove what was staged, and all of an index that did not come to be."""
    shutil.rmtree(writer.staging, ignore_errors=True)
    _drop_uncommitted(writer.index_dir)
    with suppress(OSError):  # not empty: shards are there to go on from
        writer.staging.parent.rmdir()
    if not (writer.index_dir / MANIFEST_FILE).exists() and not (writer.index_dir / BUILDING).exists():
        (writer.index_dir / LOCK).unlink(missing_ok=True)
        for folder in [writer.index_dir / VERSIONS, *([writer.index_dir] if made else [])]:
            with suppress(OSError):
                folder.rmdir()


def _drop_uncommitted(index_dir: Path) -> None:
    """Remove a version that was moved into place and did not become the current one: it never served."""
    note = index_dir / BUILDING / COMMITTING
    # Where the current manifest is damaged, nobody knows what served: all versions stay.
    with suppress(OSError, ValueError, IndexIntegrityError):
        number = int(note.read_text())
        if number != _current(index_dir):
            shutil.rmtree(version_directory(index_dir, number), ignore_errors=True)
    for path in (note, index_dir / SWITCHING):
        with suppress(OSError):
            path.unlink()


def _current(index_dir: Path) -> int | None:
    return read_manifest(index_dir).version if (index_dir / MANIFEST_FILE).exists() else None


def current_directory(index_dir: Path, manifest: Manifest) -> Path:
    """Return the folder of the version that a manifest describes.

    Raises:
        IndexIntegrityError: it is gone.
    """
    folder = version_directory(index_dir, manifest.version)
    if not folder.is_dir():
        raise IndexIntegrityError(
            f"{folder}: missing; restore it, or go back to another version with rollback, or build again"
        )
    return folder
