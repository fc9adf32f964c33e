"""A run's folder: whether it may be written, and the files that are not the encoder's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aisle.config.load import saved_form, write_yaml
from aisle.config.training import RunSettings, TrainSettings
from aisle.durable import replace_text
from aisle.errors import ConfigError
from aisle.model_card import render_model_card
from aisle.models.loading import SETTINGS_FILE, read_settings_file

CHECKPOINTS = "checkpoints"
SETTINGS = "config.yaml"
METRICS = "metrics.json"
CARD = "README.md"
RUN_FILES = (SETTINGS_FILE, METRICS, CHECKPOINTS)
"""What shows that a folder holds a run."""


def check_run_dir(run_dir: Path, run: RunSettings) -> None:
    """Refuse a folder that holds another run; nothing is written.

    Raises:
        ConfigError: it does, and is neither to be overwritten nor gone on with.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"--output_dir {run_dir}: is a file; give a folder")
    held = [name for name in RUN_FILES if (run_dir / name).exists()]
    wanted = run.resume_from_checkpoint
    if not held or run.overwrite_output_dir or wanted == "latest":
        return
    if wanted is None:
        raise ConfigError(
            f"--output_dir {run_dir}: holds another run ({', '.join(held)}); give another folder, "
            "--overwrite_output_dir to replace it, or --resume_from_checkpoint latest to go on with it"
        )
    if run_dir.resolve() not in Path(wanted).resolve().parents:
        raise ConfigError(
            f"--output_dir {run_dir}: holds another run than the checkpoint {wanted}; "
            "give that run's folder, or an empty one"
        )


def start_run_dir(run_dir: Path, settings: TrainSettings) -> None:
    """Make the run's folder and save the settings.

    A finished run that is to be overwritten stays until the new one is finished; only its checkpoints go,
    since they would be taken for the new run's.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if settings.run.overwrite_output_dir and (run_dir / CHECKPOINTS).exists():
            shutil.rmtree(run_dir / CHECKPOINTS)
        if not (run_dir / SETTINGS_FILE).exists():
            write_yaml(settings, run_dir / SETTINGS)
    except OSError as error:
        raise ConfigError(f"--output_dir {run_dir}: cannot be written: {error}") from None


def finish_run_dir(run_dir: Path, settings: TrainSettings, metrics: Mapping[str, Any]) -> None:
    """Write settings, metrics and model card beside the saved encoder."""
    write_yaml(settings, run_dir / SETTINGS)
    replace_text(run_dir / METRICS, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    encoder = read_settings_file(run_dir) or {}
    card = render_model_card(encoder=encoder, settings=saved_form(settings), metrics=metrics, repo_id=None)
    replace_text(run_dir / CARD, card)
