"""The versions of an index: their folders, the current version, and the lineage."""

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
"""Versions that a new index keeps, unless it is told otherwise."""
OURS = {MANIFEST_FILE, SWITCHING, VERSIONS, LOCK, BUILDING}


def current_directory(index_dir: Path, manifest: Manifest) -> Path:
    """Return the folder of the version that a manifest describes.

    Raises:
        IndexIntegrityError: The folder is missing.
    """
    folder = version_directory(index_dir, manifest.version)
    if not folder.is_dir():
        raise IndexIntegrityError(
            f"{folder}: missing; restore it, or go back to another version with rollback, or build again"
        )
    return folder


def current_manifest(index_dir: Path) -> Manifest | None:
    """Return the current version's manifest; None where it is lost or damaged."""
    with suppress(IndexIntegrityError):
        return read_manifest(index_dir)
    return None


def switch(index_dir: Path, version: Path) -> None:
    """Make a version's manifest the current one.

    Raises:
        OSError: The system refuses.
    """
    replace_bytes(index_dir / MANIFEST_FILE, (version / MANIFEST_FILE).read_bytes())
    sync(index_dir)


def lineage(index_dir: Path) -> list[int]:
    """Return the versions that a next one is made from, nearest first: the current one and its ancestors.

    Where the current manifest is lost or damaged, the newest version counts as the current one, as it does
    for a rollback. Only versions that are there are named.
    """
    numbers = version_numbers(index_dir)
    manifest = current_manifest(index_dir)
    if manifest is None:
        manifest = _readable(index_dir, max(numbers, default=0))
    named = (*numbers[-1:],) if manifest is None else (manifest.version, *manifest.ancestors)
    return [number for number in named if number in numbers]


def kept_first(numbers: list[int], ancestors: list[int]) -> list[int]:
    """Return the versions in the order of their claim to be kept.

    Args:
        numbers: Numbers of the versions beside the new one.
        ancestors: Versions that the new one was made from, nearest first; all others are abandoned branches.
    """
    return ancestors + sorted(set(numbers) - set(ancestors), reverse=True)


def remembered_keep_versions(index_dir: Path) -> int:
    """Return how many versions the index keeps: the last writer's number, or `KEEP_VERSIONS`."""
    # The newest version, not the current one: after a rollback the number of versions stays what it was.
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
        IndexStoreError: Something is there that is not of an index.
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
            # With versions beside it, a build or a rollback replaces a damaged manifest.
            if not version_numbers(index_dir):
                raise
