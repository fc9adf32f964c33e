"""Read the settings file of a run, `aisle.json`: of an encoder, or of a reranker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aisle.errors import ModelError
from aisle.models.model_source import ModelSource
from aisle.text.tokens import Side

SETTINGS_FILE = "aisle.json"
FORMAT_VERSION = 2
"""Version of the format of `aisle.json`. Since 2, fingerprints cover all adapter settings and model code."""
RERANKER = "reranker"
"""Value of the key `kind` in the `aisle.json` of a cross-encoder; an encoder has no such key."""
SHARED_TOWER = ("query", "product")
"""Sides of a shared tower, as listed in `aisle.json`."""
SEPARATE_TOWERS: tuple[tuple[Side, ...], ...] = (("query",), ("product",))
"""Sides of two towers, as listed in `aisle.json`."""
ROUTER_FILE = "router_config.json"
"""sentence-transformers' file of a model with several towers: the modules of each."""
TOWER_FOLDERS: Mapping[Side, str] = {"query": "query", "product": "product"}
"""Folder of each tower in a run of two towers."""


def read_settings_file(folder: Path) -> dict[str, Any] | None:
    """Return the contents of a run's `aisle.json`, or None if the folder has none.

    Raises:
        ModelError: The file is damaged, has another format, lists other towers than aisle reads, or is a
            reranker's.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    try:
        saved = _read(path)
        if saved.get("kind") == RERANKER:
            raise ModelError(
                f"{folder}: is a reranker of `aisle train-reranker`, which scores pairs and has no "
                "embeddings; give it as --reranker, and a run of `aisle train` here"
            )
        for key in ("pooling", "query_prompt", "product_prompt", "max_length", "normalize", "base_model"):
            saved[key]
        towers = [tuple(tower["sides"]) for tower in saved.get("towers", [])]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: is damaged ({error}); restore it or train again") from None
    if towers not in ([], [SHARED_TOWER], list(SEPARATE_TOWERS)):
        raise ModelError(
            f"{path}: lists towers for the sides {towers}, and this version of aisle reads runs with a "
            "shared tower, or with a tower for queries and a tower for products; load the run with the "
            "version of aisle that made it"
        )
    return saved


def has_two_towers(saved: Mapping[str, Any] | None) -> bool:
    """Return whether a run, by the contents of its `aisle.json`, has a tower for each side."""
    return saved is not None and len(saved.get("towers", ())) > 1


def require_router(source: ModelSource) -> None:
    """Check that sentence-transformers can load a run of two towers.

    Args:
        source: The run.

    Raises:
        ModelError: The Router's file is missing.
    """
    if not (source.path / ROUTER_FILE).is_file():
        raise ModelError(
            f"{source.name}: has a tower for each side, and {ROUTER_FILE} is missing, without which "
            "sentence-transformers cannot load the run; restore the file"
        )


def tower_source(source: ModelSource, side: Side) -> ModelSource:
    """Return the location of a tower of a run of two towers; it is a whole model, with its own `aisle.json`.

    Args:
        source: The run.
        side: Side of the tower.

    Raises:
        ModelError: The tower's folder is missing.
    """
    folder = TOWER_FOLDERS[side]
    if not (source.path / folder / SETTINGS_FILE).is_file():
        raise ModelError(
            f"{source.name}: has a tower for each side, and {folder}/{SETTINGS_FILE} is missing; restore the "
            "folder"
        )
    return replace(source, name=f"{source.name.rstrip('/')}/{folder}", path=source.path / folder, hub_id=None)


def refuse_two_towers(source: ModelSource, saved: Mapping[str, Any] | None, *, why: str) -> None:
    """Refuse a run of two towers where a single tower is needed.

    Args:
        source: The run.
        saved: Contents of its `aisle.json`; None for other models.
        why: Clause that says what needs a single tower.

    Raises:
        ModelError: The run has two towers.
    """
    if has_two_towers(saved):
        folders = " or ".join(f"{source.name.rstrip('/')}/{folder}" for folder in TOWER_FOLDERS.values())
        raise ModelError(
            f"{source.name}: has a tower for queries and a tower for products, and {why}; "
            f"give one of its towers: {folders}"
        )


def read_reranker_file(folder: Path) -> dict[str, Any] | None:
    """Return the contents of a reranker's `aisle.json`, or None if the folder has none or no reranker.

    Raises:
        ModelError: The file is damaged, or has another format.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    try:
        saved = _read(path)
        if saved.get("kind") != RERANKER:
            return None
        for key in ("max_length", "base_model", "fingerprint"):
            saved[key]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: is damaged ({error}); restore it or train again") from None
    return saved


def _read(path: Path) -> dict[str, Any]:
    """Return the contents of an `aisle.json` in the format of this version.

    Raises:
        ModelError: The file has another format.
        ValueError: The file is not JSON; a KeyError or a TypeError if it has no format.
    """
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if saved["format_version"] != FORMAT_VERSION:
        raise ModelError(
            f"{path}: has format {saved['format_version']}, and this version of aisle reads "
            f"{FORMAT_VERSION}, in which the fingerprint covers more settings; train again, or load the "
            "run with the version of aisle that made it"
        )
    return saved
