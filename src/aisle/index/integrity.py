"""Check a version of an index: the backend is registered, and the files match the manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from aisle.errors import ConfigError, IndexIntegrityError
from aisle.index.backends import GraphBackend, backend_named, make_parameters
from aisle.index.manifest import (
    ADAPTER_FILE,
    CALIBRATION_FILE,
    INDEX_FILES,
    LEXICAL_FOLDER,
    MANIFEST_FILE,
    MARKS_FILE,
    TOWER_FOLDER,
    FileRecord,
    Manifest,
)
from aisle.io.durable import file_sha256

__all__ = ["file_problem", "file_record", "recorded_backend", "verify_files"]

_NAME = "[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_IN_FOLDER = re.compile(rf"{LEXICAL_FOLDER}/{_NAME}|{TOWER_FOLDER}/({_NAME}/)?{_NAME}")


def recorded_backend(folder: Path, manifest: Manifest) -> tuple[type[GraphBackend], Any]:
    """Return the backend that a version was built with, and its parameters.

    Raises:
        IndexIntegrityError: The backend is unknown, or its parameters are not valid.
    """
    try:
        backend = backend_named(manifest.backend.name)
        return backend, make_parameters(backend, manifest.backend.parameters)
    except ConfigError as error:
        raise IndexIntegrityError(
            f"{folder / MANIFEST_FILE}: {error}; register the backend, upgrade aisle, or build the "
            "index again"
        ) from None


def file_record(path: Path) -> FileRecord:
    """Return checksum and size of a file.

    Raises:
        OSError: The file cannot be read.
    """
    return FileRecord(sha256=file_sha256(path), size=path.stat().st_size)


def verify_files(folder: Path, manifest: Manifest, *, verify: Literal["checksums", "sizes"]) -> None:
    """Check the files of a version against its manifest.

    Raises:
        IndexIntegrityError: The backend is unknown, the manifest lists the wrong files, or a file is missing,
            truncated or altered.
    """
    files = manifest.files
    listed, needed = set(files), {*INDEX_FILES, *recorded_backend(folder, manifest)[0].files}
    others = listed - needed - {MARKS_FILE, CALIBRATION_FILE, ADAPTER_FILE}
    foreign = sorted(name for name in others if not _IN_FOLDER.fullmatch(name))
    if foreign or not needed <= listed:
        raise IndexIntegrityError(
            f"{folder}: the manifest must list {sorted(needed)} and files of {LEXICAL_FOLDER}/, found "
            f"{sorted(listed)}; build the index again"
        )
    for name, recorded in sorted(files.items()):
        problem = file_problem(folder / name, recorded, verify=verify)
        if problem is not None:
            raise IndexIntegrityError(problem)


def file_problem(path: Path, recorded: FileRecord, *, verify: Literal["checksums", "sizes"]) -> str | None:
    """Return the problem with a file of an index and how to repair it, or None.

    Raises:
        OSError: The file exists but cannot be read.
    """
    mend = "restore the file or build the index again"
    if not path.is_file():
        return f"{path}: missing; {mend}"
    size = path.stat().st_size
    if size != recorded.size:
        return f"{path}: the manifest records {recorded.size} bytes, found {size}; {mend}"
    if verify == "checksums" and (found := file_record(path).sha256) != recorded.sha256:
        return f"{path}: altered: the manifest records SHA-256 {recorded.sha256}, found {found}; {mend}"
    return None
