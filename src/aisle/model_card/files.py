"""The card and its charts in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from aisle.durable import replace_bytes, replace_text, sync
from aisle.errors import ModelError
from aisle.model_card.card import render_model_card
from aisle.model_card.metadata import check_metadata
from aisle.model_card.search_section import (
    FIGURES_FOLDER,
    SearchResults,
    check_markers,
    with_search_results,
)

__all__ = ["FIGURES_FOLDER", "check_card", "read_card", "write_search_results"]

CARD = "README.md"
CHARTS = ("retrieval", "roc", "recall_by_ef")
"""That a card may have had from an earlier evaluation."""


def read_card(run_dir: Path) -> str:
    """Return the card of a finished run as it is on disk; where there is none, the one it would have had.

    Raises:
        ModelError: it, or what it is made of, cannot be read.
    """
    path = run_dir / CARD
    if not path.is_file():
        encoder, settings, metrics = (
            _read(run_dir / name) for name in ("aisle.json", "config.yaml", "metrics.json")
        )
        return render_model_card(encoder=encoder, settings=settings, metrics=metrics, repo_id=None)
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as UTF-8: {error}") from None


def check_card(run_dir: Path) -> None:
    """Refuse a run whose card cannot take an evaluation.

    Raises:
        ModelError: the folder is not a finished run's, or the card cannot be read.
    """
    if not (run_dir / "aisle.json").is_file():
        raise ModelError(
            f"--model_card: {run_dir} is not the folder of a finished run (it has no aisle.json); train with "
            "train_peft.py, give the run's folder with --model, or leave the flag out"
        )
    card = read_card(run_dir)
    check_markers(card)
    check_metadata(card)


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
        for name in set(CHARTS) - set(images):
            (figures / f"{name}.png").unlink(missing_ok=True)
        sync(run_dir)
    except OSError as error:
        raise ModelError(
            f"--model_card: {run_dir} cannot be written: {error.strerror}; make the run's folder writable"
        ) from None
    return run_dir / CARD


def _read(path: Path) -> Any:
    """Return what a settings file holds; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.safe_load(text) or {} if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
