"""A package: a bundle, the current version of its index, and settings of `aisle serve`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from aisle.bundle.bundle_file import BUNDLE_FILE
from aisle.errors import IndexIntegrityError
from aisle.index.layout import LOCK, MANIFEST_FILE, VERSIONS
from aisle.io.record_schema import Limits, record_validator
from aisle.io.recorded_files import other_files

__all__ = [
    "BUNDLE_FOLDER",
    "FORMAT_VERSION",
    "INDEX_FOLDER",
    "PACKAGE_FILE",
    "SERVE_FILE",
    "PackageRecord",
    "files_beside_package",
    "package_size",
    "package_text",
    "read_package",
]

FORMAT_VERSION = 1
PACKAGE_FILE = "package.json"
SERVE_FILE = "serve.yaml"
"""File with settings of `aisle serve`, as `--config` reads them."""
INDEX_FOLDER = "index"
BUNDLE_FOLDER = "bundle"

Sha256 = Annotated[str, Limits(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Limits(ge=1)]


@dataclass(frozen=True)
class PackageRecord:
    """Contents of `package.json`."""

    index_version: Positive
    """Version of the index."""
    index_fingerprint: Sha256
    """SHA-256 of the version's manifest, which has the checksums of all its files."""
    model_fingerprint: Sha256
    """Fingerprint of the bundle's queries."""
    products: Positive
    """Number of products in the index."""
    made_with: str
    """Version of aisle."""


_VALIDATOR = record_validator(PackageRecord)


def package_text(record: PackageRecord) -> str:
    """Return the text of `package.json`."""
    document = {"format_version": FORMAT_VERSION, **asdict(record)}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def files_beside_package(folder: Path) -> list[str]:
    """Return the paths in a package's folder that do not belong to the package, sorted."""
    return other_files(
        folder,
        records=[f"{BUNDLE_FOLDER}/{BUNDLE_FILE}", f"{INDEX_FOLDER}/{VERSIONS}/*/{MANIFEST_FILE}"],
        own=[PACKAGE_FILE, SERVE_FILE, f"{INDEX_FOLDER}/{MANIFEST_FILE}", f"{INDEX_FOLDER}/{LOCK}"],
    )


def read_package(folder: Path) -> PackageRecord:
    """Return the contents of a package's `package.json`, after a check that it describes the index beside it.

    The files of index and bundle have their own checksums, which are compared when they are loaded.

    Raises:
        IndexIntegrityError: The folder is no package, is of another format, or has another index.
    """
    path = folder / PACKAGE_FILE
    try:
        record = _parsed(path)
        found = hashlib.sha256((folder / INDEX_FOLDER / MANIFEST_FILE).read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise IndexIntegrityError(
            f"{folder}: must be the folder of a package, and {error.filename} is missing; "
            "write one with `aisle package`"
        ) from None
    except OSError as error:
        raise IndexIntegrityError(f"{path}: cannot be read: {error}; check its permissions") from None
    if found != record.index_fingerprint:
        raise IndexIntegrityError(
            f"{path}: records the index {record.index_fingerprint[:12]}, and {INDEX_FOLDER}/ holds "
            f"{found[:12]}; write the package again"
        )
    return record


def _parsed(path: Path) -> PackageRecord:
    """Return the contents of a record, with the right fields and types."""
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError(f"it must be a JSON object, found {type(document).__name__}")
        version = document.pop("format_version", None)
        if version == FORMAT_VERSION:
            record: PackageRecord = _VALIDATOR.validate_json(json.dumps(document))
            return record
    except (ValueError, RecursionError) as error:  # ValidationError is a ValueError
        reason = str(error).replace("\n", " ")[:300]
        raise IndexIntegrityError(
            f"{path}: not the record of a package: {reason}; write the package again"
        ) from None
    raise IndexIntegrityError(
        f"{path}: this aisle serves packages of format {FORMAT_VERSION}, found format {version!r:.40}; "
        "write the package again with this aisle"
    )


def package_size(folder: Path) -> int:
    """Return the bytes of all files of a package, about the memory that it takes when it is served."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
