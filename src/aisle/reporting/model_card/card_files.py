"""The card and its charts in the run's folder."""

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
    "read_card",
    "read_settings",
    "remove_card_charts",
    "write_search_results",
]

CARD = "README.md"
CHARTS = ("retrieval", "roc", "recall_by_ef")
"""That a card may show, the most telling first; other pictures in their folder are not the card's."""


def read_card(run_dir: Path) -> str:
    """Return the card of a finished run as it is on disk; where there is none, the one it would have had.

    Raises:
        ModelError: it, or what it is made of, cannot be read.
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
    """Refuse a run whose card cannot take an evaluation.

    Raises:
        ModelError: the folder is not a finished run's, the card cannot be read, or it could not be written.
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

    The charts are written first, so that a card shows none that is not there; those of an earlier
    evaluation that this one does not have are removed.

    Args:
        run_dir: of a finished run.
        results: what to write.
        images: PNG of each chart, by the names of `results.alt_texts`.

    Raises:
        ModelError: the card cannot be read or written.
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
        raise ModelError(f"--model_card: {card} must be a file, and is a folder; move it away")
    if figures.exists() and not figures.is_dir():
        raise ModelError(f"--model_card: {figures} must be a folder for the charts; move the file away")
    for folder in (run_dir, figures):
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            raise ModelError(f"--model_card: {folder} cannot be written; make the run's folder writable")


def card_charts(run_dir: Path) -> list[Path]:
    """Return the charts that evaluations wrote for the card of a run."""
    paths = (run_dir / FIGURES_FOLDER / f"{name}.png" for name in CHARTS)
    return [path for path in paths if path.is_file()]


def remove_card_charts(run_dir: Path) -> None:
    """Remove the charts of a card, and their folder where nothing else is in it."""
    with suppress(OSError):
        for path in card_charts(run_dir):
            path.unlink()
        (run_dir / FIGURES_FOLDER).rmdir()


def read_settings(path: Path) -> Any:
    """Return what a settings file in YAML or JSON holds; nothing where there is none.

    Raises:
        ModelError: it cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.safe_load(text) or {} if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
