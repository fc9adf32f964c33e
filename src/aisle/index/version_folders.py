"""Folders of the versions of an index: the current version, its ancestors, and which versions to keep."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from aisle.errors import IndexIntegrityError, IndexStoreError
from aisle.index.layout import (
    BUILDING,
    LOCK,
    MANIFEST_FILE,
    SWITCHING,
    VERSIONS,
    version_directory,
    version_numbers,
)
from aisle.index.manifest import Manifest, read_manifest
from aisle.io.durable import replace_bytes, sync

__all__ = [
    "KEEP_VERSIONS",
    "current_directory",
    "current_manifest",
    "kept_first",
    "lineage",
    "refuse_foreign",
    "remembered_keep_versions",
    "switch",
]

KEEP_VERSIONS = 3
"""Default number of versions that an index keeps."""
OURS = {MANIFEST_FILE, SWITCHING, VERSIONS, LOCK, BUILDING}


def current_directory(index_dir: Path, manifest: Manifest) -> Path:
    """Return the folder of the version that a manifest describes.

    Raises:
        IndexIntegrityError: If the folder is missing.
    """
    folder = version_directory(index_dir, manifest.version)
    if not folder.is_dir():
        raise IndexIntegrityError(
            f"{folder}: missing; restore it, or go back to another version with rollback, or build again"
        )
    return folder


def current_manifest(index_dir: Path) -> Manifest | None:
    """Return the current version's manifest; None if it is lost or damaged."""
    with suppress(IndexIntegrityError):
        return read_manifest(index_dir)
    return None


def switch(index_dir: Path, version: Path) -> None:
    """Make a version current by replacing the index's manifest.

    Raises:
        OSError: If the manifest cannot be replaced.
    """
    replace_bytes(index_dir / MANIFEST_FILE, (version / MANIFEST_FILE).read_bytes())
    sync(index_dir)


def lineage(index_dir: Path) -> list[int]:
    """Return the ancestors of the next version, nearest first: the current version and its ancestors.

    If the current manifest is lost or damaged, the newest version counts as current, as for a rollback.
    Removed versions are left out.
    """
    numbers = version_numbers(index_dir)
    manifest = current_manifest(index_dir)
    if manifest is None:
        manifest = _readable(index_dir, max(numbers, default=0))
    named = (*numbers[-1:],) if manifest is None else (manifest.version, *manifest.ancestors)
    return [number for number in named if number in numbers]


def kept_first(numbers: list[int], ancestors: list[int]) -> list[int]:
    """Return the versions in the order in which to keep them: ancestors first, then abandoned branches.

    Args:
        numbers: Numbers of all versions except the new one.
        ancestors: Ancestors of the new version, nearest first.
    """
    return ancestors + sorted(set(numbers) - set(ancestors), reverse=True)


def remembered_keep_versions(index_dir: Path) -> int:
    """Return how many versions the index keeps: as the newest version records, or `KEEP_VERSIONS`."""
    # The newest version, not the current one: a rollback does not change the number of versions to keep.
    for number in reversed(version_numbers(index_dir)):
        manifest = _readable(index_dir, number)
        if manifest is not None:
            return manifest.keep_versions
    return KEEP_VERSIONS


def _readable(index_dir: Path, number: int) -> Manifest | None:
    with suppress(IndexStoreError, OSError):
        return read_manifest(version_directory(index_dir, number))
    return None


def refuse_foreign(index_dir: Path) -> None:
    """Check that an index may be written to `index_dir`.

    Raises:
        IndexStoreError: If it is a file, or contains files that are not part of an index.
    """
    if not index_dir.exists():
        return
    if not index_dir.is_dir():
        raise IndexStoreError(f"{index_dir}: must be a directory, found a file; choose another index_dir")
    foreign = sorted({path.name for path in index_dir.iterdir()} - OURS)
    if foreign:
        what = f"{foreign[0]!r}, which is not part of an index of this format"
        raise IndexStoreError(f"{index_dir}: holds {what}; choose another index_dir, or move it away")
    if (index_dir / MANIFEST_FILE).exists():
        try:
            read_manifest(index_dir)
        except IndexIntegrityError:
            # If there are versions, a build or a rollback replaces a damaged manifest.
            if not version_numbers(index_dir):
                raise
