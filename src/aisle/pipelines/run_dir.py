"""A run's folder: whether it may be written, and the files that are not the encoder's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aisle.config.load import write_yaml
from aisle.config.training import RunSettings, TrainSettings
from aisle.durable import replace_text
from aisle.errors import ConfigError
from aisle.model_card import render_model_card
from aisle.models.loading import read_settings_file

CHECKPOINTS = "checkpoints"
SETTINGS = "config.yaml"
METRICS = "metrics.json"
CARD = "README.md"
RUN_FILES = ("aisle.json", SETTINGS, METRICS, CHECKPOINTS)
"""What shows that a folder holds a run."""
REPLACED = (*RUN_FILES, CARD, "adapter_model.safetensors", "adapter_config.json", "model.safetensors")


def check_run_dir(run_dir: Path, run: RunSettings) -> None:
    """Refuse a folder that holds another run; nothing is written.

    Raises:
        ConfigError: it does, and neither --overwrite_output_dir nor --resume_from_checkpoint was given.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"--output_dir {run_dir}: is a file; give a folder")
    held = [name for name in RUN_FILES if (run_dir / name).exists()]
    if held and not run.overwrite_output_dir and not run.resume_from_checkpoint:
        raise ConfigError(
            f"--output_dir {run_dir}: holds another run ({', '.join(held)}); give another folder, "
            "--overwrite_output_dir to replace it, or --resume_from_checkpoint latest to go on with it"
        )


def start_run_dir(run_dir: Path, settings: TrainSettings, *, resumed: bool) -> None:
    """Make the run's folder, without what another run left there, and save the settings.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if not resumed and settings.run.overwrite_output_dir:
            for name in REPLACED:
                _remove(run_dir / name)
        write_yaml(settings, run_dir / SETTINGS)
    except OSError as error:
        raise ConfigError(f"--output_dir {run_dir}: cannot be written: {error}") from None


def write_metrics(run_dir: Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics.json`."""
    replace_text(run_dir / METRICS, json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def write_card(run_dir: Path, *, settings: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write the model card."""
    encoder = read_settings_file(run_dir) or {}
    card = render_model_card(encoder=encoder, settings=settings, metrics=metrics, repo_id=None)
    replace_text(run_dir / CARD, card)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
