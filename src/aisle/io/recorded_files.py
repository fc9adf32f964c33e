"""Find the files in a folder that aisle did not write there, so that a replacement does not delete them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from aisle.io.json_object import InvalidJsonError, read_object

__all__ = ["other_files"]


def other_files(folder: Path, *, records: Iterable[str], own: Iterable[str] = ()) -> list[str]:
    """Return the paths in a folder, sorted, that its records do not list.

    Args:
        folder: Folder to be replaced.
        records: Glob patterns of JSON files. The keys of their field `files` are the names of files beside
            them. A record that cannot be read lists none.
        own: Paths of other files that belong to the folder.
    """
    known = set(own)
    for pattern in records:
        for record in folder.glob(pattern):
            names = (record.name, *_listed(record))
            known |= {(record.relative_to(folder).parent / name).as_posix() for name in names}
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted({path.relative_to(folder).as_posix() for path in files} - known)


def _listed(record: Path) -> list[str]:
    try:
        listed = read_object(record).get("files")
    except (OSError, InvalidJsonError):
        return []
    return list(listed) if isinstance(listed, dict) else []
