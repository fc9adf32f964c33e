"""Read and write the card and its charts in the run's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from aisle.errors import ModelError
from aisle.io.durable import replace_bytes, replace_text, sync
from aisle.reporting.model_card.card import render_model_card
from aisle.reporting.model_card.metadata import check_metadata
from aisle.reporting.model_card.search_section import (
    FIGURES_FOLDER,
    SearchResults,
    check_markers,
    with_search_results,
)

__all__ = [
    "CARD",
    "CHARTS",
    "card_charts",
    "check_card",
    "copy_card_charts",
    "read_card",
    "read_settings",
    "remove_card_charts",
    "write_search_results",
]

CARD = "README.md"
CHARTS = ("retrieval", "roc", "recall_by_ef")
"""Charts that a card may show, the most important first; other images in the folder stay."""


def read_card(run_dir: Path) -> str:
    """Return the card of a finished run; render it from the run's files if it is missing.

    Raises:
        ModelError: If the card or the run's files cannot be read.
    """
    path = run_dir / CARD
    if not path.is_file():
        encoder, settings, metrics = (
            read_settings(run_dir / name) for name in ("aisle.json", "config.yaml", "metrics.json")
        )
        return render_model_card(encoder=encoder, settings=settings, metrics=metrics, repo_id=None)
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as UTF-8: {error}") from None


def check_card(run_dir: Path) -> None:
    """Check that an evaluation can be written into the card of a run.

    Raises:
        ModelError: If the folder is not a finished run, or the card cannot be read or written.
    """
    if not (run_dir / "aisle.json").is_file():
        raise ModelError(
            f"--model_card: {run_dir} is not the folder of a finished run (it has no aisle.json); train with "
            "train_peft.py, give the run's folder with --model, or leave the flag out"
        )
    card = read_card(run_dir)
    check_markers(card)
    check_metadata(card)
    _check_writable(run_dir)


def write_search_results(run_dir: Path, results: SearchResults, images: Mapping[str, bytes]) -> Path:
    """Write an evaluation into the card of a run, and return the card's path.

    Charts are written before the card, so that the card never refers to a missing file. Outdated charts of an
    earlier evaluation are removed.

    Args:
        run_dir: Folder of a finished run.
        results: Results to write.
        images: PNG of each chart, by the names of `results.alt_texts`.

    Raises:
        ModelError: If the card cannot be read or written.
    """
    card = with_search_results(read_card(run_dir), results)
    figures = run_dir / FIGURES_FOLDER
    try:
        figures.mkdir(exist_ok=True)
        for name, content in images.items():
            replace_bytes(figures / f"{name}.png", content)
        sync(figures)
        replace_text(run_dir / CARD, card)
        for path in card_charts(run_dir):
            if path.stem not in images:
                path.unlink()
        sync(run_dir)
    except OSError as error:
        raise ModelError(
            f"--model_card: {run_dir} cannot be written: {error.strerror}; make the run's folder writable"
        ) from None
    return run_dir / CARD


def _check_writable(run_dir: Path) -> None:
    card, figures = run_dir / CARD, run_dir / FIGURES_FOLDER
    if card.exists() and not card.is_file():
        raise ModelError(f"--model_card: {card} must be a file, but it is a folder; move it away")
    if figures.exists() and not figures.is_dir():
        raise ModelError(f"--model_card: {figures} must be a folder for the charts; move the file away")
    for folder in (run_dir, figures):
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            raise ModelError(f"--model_card: {folder} cannot be written; make the run's folder writable")


def card_charts(run_dir: Path) -> list[Path]:
    """Return the paths of the charts on the card of a run."""
    paths = (run_dir / FIGURES_FOLDER / f"{name}.png" for name in CHARTS)
    return [path for path in paths if path.is_file()]


def copy_card_charts(source: Path, run_dir: Path) -> None:
    """Copy the charts on the card of a run to another run's folder.

    Raises:
        ModelError: If a chart cannot be read or written.
    """
    figures = run_dir / FIGURES_FOLDER
    try:
        for path in card_charts(source):
            figures.mkdir(exist_ok=True)
            replace_bytes(figures / path.name, path.read_bytes())
    except OSError as error:
        raise ModelError(
            f"{figures}: the charts of the model card cannot be written: {error}; the model is complete"
        ) from None


def remove_card_charts(run_dir: Path) -> None:
    """Remove the charts of a card, and their folder if it is then empty."""
    with suppress(OSError):
        for path in card_charts(run_dir):
            path.unlink()
        (run_dir / FIGURES_FOLDER).rmdir()


def read_settings(path: Path) -> Any:
    """Return the contents of a settings file in YAML or JSON; an empty dict if it is missing.

    Raises:
        ModelError: If the file cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.safe_load(text) or {} if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
