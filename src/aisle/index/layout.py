"""Names of the parts of an index directory, and the versions in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

StrPath: TypeAlias = str | os.PathLike[str]
"""A path as users give it."""

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
    """Return the index directory that contains a version's folder."""
    return version.parents[1]


def version_numbers(index_dir: Path) -> list[int]:
    """Return the numbers of an index's versions, lowest first."""
    folder = index_dir / VERSIONS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def first_version_unfinished(index_dir: Path) -> bool:
    """Return whether the first build crashed while its version was moved into place, before it served."""
    note = index_dir / BUILDING / COMMITTING
    only_one = len(version_numbers(index_dir)) == 1
    return only_one and note.exists() and not (index_dir / MANIFEST_FILE).exists()
