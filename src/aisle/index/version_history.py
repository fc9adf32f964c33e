"""Versions of an index, side by side: list them, and go back to an older one.

    manifest.json          the current version's manifest: a rename replaces it, so readers see old or new
    versions/000003/       a version: its files and its own manifest; never changed after the commit
    lock                   held by the process that writes; contains its command and process id
    .building/version/     staging of the next version; the next writer removes the rest of a crashed one
    .building/shards/      embeddings of an unfinished build; the next build continues from them
    .building/committing   number of a version that is being moved into place

Versions form a tree: each records its ancestors. A crash at any moment leaves the old or the new version
current, and complete. POSIX only: renames must replace files, and locks must end with their process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aisle.errors import IndexStoreError
from aisle.index.array_files import writing
from aisle.index.integrity import verify_files
from aisle.index.layout import StrPath, version_directory, version_numbers
from aisle.index.manifest import Manifest, read_manifest
from aisle.index.version_folders import current_manifest, switch
from aisle.index.writer import index_writer

__all__ = ["Version", "list_versions", "rollback"]


@dataclass(frozen=True)
class Version:
    """One version of an index."""

    number: int
    manifest: Manifest | None
    """Manifest of the version; None if it cannot be read."""
    current: bool
    problem: str | None = None
    """Reason why the version cannot be read; None if it can."""


def list_versions(index_dir: StrPath) -> list[Version]:
    """Return the versions of an index, oldest first; if its manifest is damaged, no version is current.

    Raises:
        IndexIntegrityError: If there is no index.
    """
    index_dir = Path(index_dir).resolve()
    numbers = version_numbers(index_dir)
    current = current_manifest(index_dir) if numbers else read_manifest(index_dir)
    found = []
    for number in numbers:
        is_current = current is not None and number == current.version
        try:
            manifest = read_manifest(version_directory(index_dir, number))
            found.append(Version(number, manifest, is_current))
        except IndexStoreError as error:
            found.append(Version(number, None, is_current, str(error)))
    return found


def rollback(index_dir: StrPath, *, to: int | None = None) -> Manifest:
    """Check all files of an older version, make it current, and return its manifest.

    Args:
        index_dir: Directory of the index.
        to: Number of the version; None is the nearest existing ancestor of the current version, or the newest
            version if the current manifest is lost or damaged.

    Raises:
        IndexStoreError: If the version does not exist or is damaged, or another process writes the index.
    """
    index_dir = Path(index_dir)
    if not version_numbers(index_dir):
        read_manifest(index_dir)  # raises: there is no index
    with index_writer(index_dir, command="rollback") as writer:
        numbers = version_numbers(writer.index_dir)
        if not numbers:  # unfinished first build
            read_manifest(writer.index_dir)
        current = current_manifest(writer.index_dir)
        if to is not None:
            number: int | None = to
        elif current is None:
            number = max(numbers, default=None)
        else:
            number = next((older for older in current.ancestors if older in numbers), None)
        if number is None or number not in numbers:
            raise IndexStoreError(f"{index_dir}: {_nowhere(number, numbers, current)}")
        target = version_directory(writer.index_dir, number)
        manifest = read_manifest(target)
        verify_files(target, manifest, verify="checksums")
        with writing(writer.index_dir):
            switch(writer.index_dir, target)
    return manifest


def _nowhere(number: int | None, numbers: list[int], current: Manifest | None) -> str:
    wanted = "older version" if number is None else f"version {number}"
    state = f"it has {numbers} and {current.version if current else 'none'} is current"
    if number is None and len(numbers) > 1:
        state += ", which has no ancestor among them; name a version with --to (to=)"
    return f"has no {wanted}; {state}"
