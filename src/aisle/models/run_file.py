"""The settings file of a run, `aisle.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aisle.errors import ModelError

SETTINGS_FILE = "aisle.json"
FORMAT_VERSION = 2
"""Format of `aisle.json`. In 2 the fingerprint covers all settings of an adapter and repositories' code."""
SHARED_TOWER = ("query", "product")
"""Sides of the tower of a run with a single tower, as `aisle.json` lists them."""


def read_settings_file(folder: Path) -> dict[str, Any] | None:
    """Return the contents of a run's `aisle.json`, or None if the folder has none.

    Raises:
        ModelError: The file is not valid, or lists separate towers.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if saved["format_version"] != FORMAT_VERSION:
            raise ModelError(
                f"{path}: has format {saved['format_version']}, and this aisle reads {FORMAT_VERSION}, whose "
                "fingerprint covers more of what decides an embedding; train again, or load it with the "
                "aisle that made it"
            )
        for key in ("pooling", "query_prompt", "product_prompt", "max_length", "normalize", "base_model"):
            saved[key]
        towers = [tuple(tower["sides"]) for tower in saved.get("towers", [])]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: is damaged ({error}); restore it or train again") from None
    if towers not in ([], [SHARED_TOWER]):
        raise ModelError(
            f"{path}: lists separate towers for queries and products, and this aisle reads runs with one "
            "tower for both; load it with the aisle that made it"
        )
    return saved
