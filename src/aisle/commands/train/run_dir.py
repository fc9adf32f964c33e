"""Check and lock the folder of a run; write its settings, log, metrics and model card."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aisle.commands.train.settings import RunSettings, TrainSettings
from aisle.config.load import saved_form, write_yaml
from aisle.errors import ConfigError, IndexLockedError, IndexStoreError
from aisle.io.durable import replace_text
from aisle.io.lock import take_lock
from aisle.models.run_file import SETTINGS_FILE, read_reranker_file, read_settings_file
from aisle.reporting.model_card import CARD, remove_card_charts, render_model_card, render_reranker_card
from aisle.types.json_values import json_ready

CHECKPOINTS = "checkpoints"
SETTINGS = "config.yaml"
METRICS = "metrics.json"
LOG = "log.jsonl"
TOKENS = ".tokens"
"""Folder of a run's tokenised pairs, removed when the run is finished."""
VECTORS = ".vectors"
"""Folder of the vectors of a run's frozen encoder, removed like the tokenised pairs."""
TEACHER = ".teacher"
"""Folder of the teacher's scores of a run's pairs, removed likewise."""
LOCK = ".lock"
RUN_FILES = (SETTINGS_FILE, METRICS, CHECKPOINTS)
"""Files and folders that mark a folder as a run."""
MODEL_FILES = ("config.json", "adapter_config.json", "modules.json")
"""Files that mark a folder as a model."""


def check_run_dir(run_dir: Path, run: RunSettings) -> None:
    """Refuse a folder that contains another run; write nothing.

    Raises:
        ConfigError: The folder contains a run, and the settings neither overwrite nor resume it.
    """
    found = _files_in(run_dir, RUN_FILES)
    wanted = run.resume_from_checkpoint
    if not found or run.overwrite_output_dir or wanted == "latest":
        return
    if wanted is None:
        raise ConfigError(
            f"--output_dir {run_dir}: contains another run ({', '.join(found)}); give another folder, "
            "--overwrite_output_dir to replace it, or --resume_from_checkpoint latest to resume it"
        )
    if run_dir.resolve() not in Path(wanted).resolve().parents:
        raise ConfigError(
            f"--output_dir {run_dir}: contains another run than that of the checkpoint {wanted}; "
            "give that run's folder, or an empty one"
        )


def check_model_dir(run_dir: Path, *, overwrite: bool) -> None:
    """Refuse a folder for a model made from runs if it contains a run or a model; write nothing.

    Raises:
        ConfigError: The folder contains a run or a model, and is not to be overwritten.
    """
    found = _files_in(run_dir, RUN_FILES + MODEL_FILES)
    if found and not overwrite:
        kind = "model" if set(found) <= set(MODEL_FILES) else "run"
        raise ConfigError(
            f"--output_dir {run_dir}: contains another {kind} ({', '.join(found)}); give another folder, or "
            "--overwrite_output_dir to replace it"
        )


def _files_in(run_dir: Path, names: Sequence[str]) -> list[str]:
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"--output_dir {run_dir}: is a file; give a folder")
    return [name for name in names if (run_dir / name).exists()]


@contextmanager
def only_writer(run_dir: Path) -> Iterator[None]:
    """Lock a run's folder against other training runs while the block runs; for the main rank only.

    Raises:
        ConfigError: Another training run writes there, or the folder cannot be locked or written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = take_lock(run_dir / LOCK, "a training")
    except IndexLockedError as error:
        raise ConfigError(f"--output_dir {error}, or give another folder") from None
    except IndexStoreError as error:
        raise ConfigError(f"--output_dir {error}") from None
    except OSError as error:
        raise ConfigError(f"--output_dir {run_dir}: cannot be written: {error}") from None
    try:
        yield
    finally:
        with suppress(OSError):
            (run_dir / LOCK).unlink()
        lock.release()


def start_run_dir(run_dir: Path, settings: TrainSettings) -> None:
    """Create the run's folder and save the settings.

    A run that is overwritten stays until the new run is finished. Only its checkpoints are removed now,
    because the new run could resume from them by mistake.

    Raises:
        ConfigError: The folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if settings.run.overwrite_output_dir and (run_dir / CHECKPOINTS).exists():
            shutil.rmtree(run_dir / CHECKPOINTS)
        if not (run_dir / SETTINGS_FILE).exists():
            write_yaml(settings, run_dir / SETTINGS)
    except OSError as error:
        raise ConfigError(f"--output_dir {run_dir}: cannot be written: {error}") from None


class TrainingLog:
    """The log of a run: a JSON document on each line. A resumed run appends to it.

    Args:
        run_dir: Folder of the run.
        step: Step that the run resumes from; lines of later steps are removed.
    """

    def __init__(self, run_dir: Path, *, step: int) -> None:
        self.path = run_dir / LOG
        kept = ""
        if step and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= step)
        replace_text(self.path, kept)

    def add(self, values: Mapping[str, Any]) -> None:
        """Add a line. A line that cannot be written (a full disk) is dropped, so that the run continues."""
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(json_ready(values)) + "\n")


def _step_of(line: str) -> float:
    """Return the step of a line, or infinity for a line that a killed run did not finish."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def finish_run_dir(run_dir: Path, settings: TrainSettings, metrics: Mapping[str, Any]) -> None:
    """Write settings, metrics and model card into the folder of the saved encoder."""
    write_yaml(settings, run_dir / SETTINGS)
    replace_text(run_dir / METRICS, metrics_text(metrics))
    saved, reranker = saved_form(settings), read_reranker_file(run_dir)
    if reranker is not None:
        card = render_reranker_card(reranker=reranker, settings=saved, metrics=metrics)
    else:
        encoder = read_settings_file(run_dir) or {}
        card = render_model_card(encoder=encoder, settings=saved, metrics=metrics, repo_id=None)
    replace_text(run_dir / CARD, card)
    remove_card_charts(run_dir)  # charts of the run that this run replaces
    for folder in (TOKENS, VECTORS, TEACHER):
        shutil.rmtree(run_dir / folder, ignore_errors=True)


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """Return the contents of a run's `metrics.json`."""
    return json.dumps(metrics, indent=2, allow_nan=False) + "\n"
