"""Check that the files and folders that a command names exist, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from aisle.data.dataset_sources import looks_local
from aisle.data.files import expand_files
from aisle.errors import DataError, IndexIntegrityError, ModelError

__all__ = ["check_data_sets", "check_files", "check_indexes", "check_models"]


def check_files(*names: str | None) -> None:
    """Refuse a file that does not exist; None is skipped."""
    for name in names:
        if name is not None and not Path(name).expanduser().exists():
            raise DataError(f"{name}: there is no such file")


def check_data_sets(names: Iterable[str]) -> None:
    """Refuse a data set that is neither an existing file or folder nor a possible Hub id."""
    expand_files(name for name in names if looks_local(name) and not Path(name).expanduser().exists())


def check_indexes(*folders: str | None) -> None:
    """Refuse an index directory that does not exist; None is skipped."""
    for folder in folders:
        if folder is not None and not Path(folder).expanduser().is_dir():
            raise IndexIntegrityError(
                f"{folder}: must be an index directory, found none; build the index first"
            )


def check_models(*names: str | None) -> None:
    """Refuse a model that is neither an existing folder nor a possible Hub id; None is skipped."""
    for name in names:
        if name is None or Path(name).expanduser().exists():
            continue
        if name.count("/") > 1 or name.startswith((".", "/", "~")):
            raise ModelError(f"{name}: there is no such folder, and it is not a Hub id (owner/name)")
