"""Read data sets that `datasets.Dataset.save_to_disk` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aisle.errors import DataError

if TYPE_CHECKING:
    import datasets

__all__ = ["open_saved", "refuse_saved", "saved_splits"]


def saved_splits(folder: Path) -> dict[str, Path]:
    """Return split to folder of a saved data set; a single split is train. Empty for any other folder."""
    if (folder / "dataset_dict.json").is_file():
        return {path.parent.name: path.parent for path in sorted(folder.glob("*/state.json"))}
    saved = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return {"train": folder} if saved else {}


def open_saved(folder: Path) -> datasets.Dataset:
    """Return a saved split, memory-mapped.

    Raises:
        DataError: The split cannot be read.
    """
    import datasets

    try:
        return datasets.Dataset.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder}: the saved data set cannot be read: {reason}") from None


def refuse_saved(folder: Path) -> None:
    """Refuse to read the files of a saved data set as rows.

    Raises:
        DataError: The folder is a saved data set.
    """
    if saved_splits(folder):
        raise DataError(
            f"{folder}: this folder is a data set that save_to_disk wrote; its files are not rows. Give the "
            "folder: with --dataset_name to train, or as the only value of --pairs to build or evaluate."
        )
