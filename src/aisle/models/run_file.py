"""Read the settings file of a run, `aisle.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aisle.errors import ModelError

SETTINGS_FILE = "aisle.json"
FORMAT_VERSION = 2
"""Version of the format of `aisle.json`. Since 2, fingerprints cover all adapter settings and model code."""
SHARED_TOWER = ("query", "product")
"""Sides of a shared tower, as listed in `aisle.json`."""


def read_settings_file(folder: Path) -> dict[str, Any] | None:
    """Return the contents of a run's `aisle.json`, or None if the folder has none.

    Raises:
        ModelError: The file is damaged, has another format, or lists separate towers.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if saved["format_version"] != FORMAT_VERSION:
            raise ModelError(
                f"{path}: has format {saved['format_version']}, and this version of aisle reads "
                f"{FORMAT_VERSION}, in which the fingerprint covers more settings; train again, or load the "
                "run with the version of aisle that made it"
            )
        for key in ("pooling", "query_prompt", "product_prompt", "max_length", "normalize", "base_model"):
            saved[key]
        towers = [tuple(tower["sides"]) for tower in saved.get("towers", [])]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: is damaged ({error}); restore it or train again") from None
    if towers not in ([], [SHARED_TOWER]):
        raise ModelError(
            f"{path}: lists separate towers for queries and products, and this version of aisle reads only "
            "runs with a shared tower; load the run with the version of aisle that made it"
        )
    return saved
