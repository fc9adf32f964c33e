"""Record of the dimensions that a model was trained to be cut to, in `aisle.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aisle.models.run_file import read_settings_file

KEY = "matryoshka"
"""Key in `aisle.json` of the record."""


def matryoshka_record(dims: Sequence[int] | None) -> dict[str, dict[str, list[int]]]:
    """Return the entry of `aisle.json` for a model that was trained with --matryoshka_dims, else nothing."""
    return {KEY: {"dims": list(dims)}} if dims else {}


def kept_record(*saved: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the entry for a model that is made from others: theirs, if all have the same."""
    records = [(one or {}).get(KEY) for one in saved]
    return {KEY: records[0]} if records and records[0] and all(one == records[0] for one in records) else {}


def dimensions_note(folder: Path, dimensions: int) -> str | None:
    """Return a note if a model was trained for prefixes of other lengths than `dimensions`, else None.

    Args:
        folder: Folder of the model.
        dimensions: Number of leading components to keep.
    """
    saved = read_settings_file(folder) or {}
    dims = saved.get(KEY, {}).get("dims", [])
    if not dims or dimensions in dims:
        return None
    return (
        f"note: --dimensions {dimensions}: the model was trained with --matryoshka_dims "
        f"{' '.join(map(str, dims))}, and prefixes of other lengths are usually worse"
    )
