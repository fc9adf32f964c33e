"""The names of an index directory's parts, and the versions that are in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

StrPath: TypeAlias = str | os.PathLike[str]
"""A path as users have it."""

MANIFEST_FILE = "manifest.json"
VERSIONS = "versions"
LOCK = "lock"
BUILDING = ".building"
COMMITTING = "committing"
SWITCHING = ".manifest.json.writing"


def version_directory(index_dir: Path, number: int) -> Path:
    """Return the folder of a version."""
    return index_dir / VERSIONS / f"{number:06d}"


def index_directory(version: Path) -> Path:
    """Return the directory of the index that a version's folder is in."""
    return version.parents[1]


def version_numbers(index_dir: Path) -> list[int]:
    """Return the numbers of the versions that an index has, lowest first."""
    folder = index_dir / VERSIONS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def first_version_unfinished(index_dir: Path) -> bool:
    """Return whether the only version was being moved into place when its writer died: it never served."""
    note = index_dir / BUILDING / COMMITTING
    only_one = len(version_numbers(index_dir)) == 1
    return only_one and note.exists() and not (index_dir / MANIFEST_FILE).exists()
