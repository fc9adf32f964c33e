"""Write a model that was made from runs, with its model card, into a folder that every command reads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aisle.commands.train.run_dir import (
    CHECKPOINTS,
    LOG,
    METRICS,
    SETTINGS,
    metrics_text,
    only_writer,
)
from aisle.config.load import yaml_text
from aisle.errors import AisleError
from aisle.models.two_towers import TwoTowers
from aisle.models.whole_model import WholeModel
from aisle.reporting.model_card import (
    CARD,
    copy_card_charts,
    read_card,
    remove_card_charts,
    render_model_card,
    search_section_in,
    with_search_section,
)


def write_model(
    model: WholeModel | TwoTowers,
    run_dir: Path,
    *,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
    same_as: Path | None = None,
) -> str:
    """Write a model and return its fingerprint.

    Args:
        model: Model to write.
        run_dir: Folder of the model. Settings, metrics, log and checkpoints of an earlier run are replaced.
        settings: Contents of `config.yaml`, which the card shows; without settings, the file is left out.
        metrics: Contents of `metrics.json`, likewise.
        same_as: Folder of a model with the same embeddings. If an evaluation wrote a section about search
            into its card, the new card gets that section and its charts.

    Raises:
        AisleError: The folder is locked or cannot be written, or the section in the card of `same_as` is
            damaged. The folder is unchanged then, and a new one is removed.
    """
    section = None
    if same_as is not None and (same_as / CARD).is_file():
        section = search_section_in(read_card(same_as))

    def more_files(encoder: Mapping[str, Any]) -> dict[str, str]:
        card = render_model_card(encoder=encoder, settings=settings, metrics=metrics, repo_id=None)
        texts = {CARD: card if section is None else with_search_section(card, section)}
        if settings:
            texts[SETTINGS] = yaml_text(settings)
        if metrics:
            texts[METRICS] = metrics_text(metrics)
        return texts

    is_new = not run_dir.exists()
    try:
        with only_writer(run_dir):
            fingerprint = model.save(run_dir, more_files=more_files)
            _remove_earlier(run_dir, {SETTINGS: settings, METRICS: metrics, LOG: None})
            if same_as is not None and section is not None:
                copy_card_charts(same_as, run_dir)
    except AisleError:
        if is_new:
            with suppress(OSError):
                run_dir.rmdir()
        raise
    return fingerprint


def _remove_earlier(run_dir: Path, contents: Mapping[str, object]) -> None:
    """Remove the files of an earlier run that the new model does not have; they do not describe it."""
    for name, content in contents.items():
        if not content:
            (run_dir / name).unlink(missing_ok=True)
    shutil.rmtree(run_dir / CHECKPOINTS, ignore_errors=True)
    remove_card_charts(run_dir)
