"""The pointer file: the model and the version of an index that are served together."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from aisle.errors import IndexIntegrityError
from aisle.io.durable import replace_text
from aisle.service.pairs.served_pair import ServedPair

__all__ = ["Published", "pointer_beside", "publish_pair", "read_pointer"]

FORMAT = 1


@dataclass(frozen=True)
class Published:
    """A model and a version of an index that fit together.

    Args:
        index_dir: Directory of the index.
        index_version: Number of the version.
        index_fingerprint: SHA-256 of the version's manifest.
        model: Folder or Hub id of the model; None is the model that the index records.
        published: Time of publication: ISO 8601, UTC.
        format: Format of the file.
        previous: What was published before, for a start that finds this pair damaged.
    """

    index_dir: str
    index_version: int
    index_fingerprint: str
    model: str | None
    published: str
    format: int = FORMAT
    previous: Published | None = None


_ADAPTER = TypeAdapter(Published)


def pointer_beside(index_dir: Path) -> Path:
    """Return the default pointer file of an index: beside its directory, which holds only the index."""
    return index_dir.with_name(f"{index_dir.name}.serving.json")


def read_pointer(path: Path) -> Published:
    """Return the contents of a pointer file.

    Raises:
        IndexIntegrityError: The file is missing or not valid.
    """
    try:
        published = _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise IndexIntegrityError(
            f"{path}: there is no such file; write it with: aisle publish --index_dir DIR --pointer {path}"
        ) from None
    except (OSError, ValidationError) as error:
        raise IndexIntegrityError(
            f"{path}: not a valid pointer file: {error!s:.300}; write it again with aisle publish"
        ) from None
    if published.format != FORMAT:
        raise IndexIntegrityError(
            f"{path}: this aisle reads format {FORMAT}, found {published.format}; upgrade aisle"
        )
    return published


def publish_pair(pair: ServedPair, path: Path) -> Published:
    """Replace the pointer file by one that names a pair, in one step.

    Args:
        pair: A pair that was loaded, and so checked.
        path: Path of the pointer file.

    Raises:
        OSError: The file cannot be written.
    """
    published = Published(
        index_dir=str(pair.source.index_dir),
        index_version=pair.version,
        index_fingerprint=pair.index_fingerprint,
        model=pair.source.model,
        published=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    published = replace(published, previous=_other_before(published, path))
    replace_text(path, json.dumps(asdict(published), indent=2) + "\n")
    return published


def _other_before(published: Published, path: Path) -> Published | None:
    """Return the last pair in a pointer file that differs from another, without its predecessor."""
    try:
        before = read_pointer(path)
    except IndexIntegrityError:
        return None
    if _is_same(before, published):
        return before.previous
    return replace(before, previous=None)


def _is_same(first: Published, second: Published) -> bool:
    """Return whether two publications name the same pair."""
    return replace(first, published="", previous=None) == replace(second, published="", previous=None)
