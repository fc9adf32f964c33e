"""Send an evaluation to the experiment trackers: scalars, tables, and charts as images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import ConfigError
from aisle.reporting import markdown
from aisle.training.accelerator import ADVICE, make_accelerator, open_trackers, tracker_names

ILLUSTRATED = ("wandb", "tensorboard")
"""Trackers that also receive tables and images."""


@dataclass(frozen=True)
class Tracked:
    """Contents to send to the trackers.

    Args:
        scalars: Figures by name; slashes make groups. Trackers outside `ILLUSTRATED` get simpler names.
        tables: (header, rows of cells) by name.
        images: (height, width, 3) uint8 arrays by name.
    """

    scalars: Mapping[str, float]
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]]
    images: Mapping[str, NDArray[np.uint8]]


def track_report(
    tracked: Tracked,
    *,
    report_to: str,
    folder: Path,
    settings: Mapping[str, Any],
    log: Callable[[str], None],
) -> None:
    """Send an evaluation to the trackers as a separate run; call on the main process only.

    Trackers start and finish one after the other, so that a tracker that fails does not affect the others.
    `Accelerator.end_training` is not used, because it would also destroy the process group on this process.

    Args:
        tracked: Contents to send.
        report_to: Names of trackers, separated by commas, or `all`.
        folder: Folder for trackers that write files.
        settings: Settings of the evaluation, without secrets.
        log: Called with the trackers that received the evaluation, and those that received scalars only.

    Raises:
        ConfigError: If a tracker is unknown or fails; the others receive the whole evaluation.
        OptionalDependencyError: If a tracker is not installed.
    """
    reached, failures = [], []
    for name in tracker_names(report_to):
        try:
            _track_with(name, tracked, folder, settings)
            reached.append(name)
        except Exception as error:
            # Every tracker raises different errors: no key, no network, a full disk.
            failures.append(f"{name} ({type(error).__name__}: {error})")
    if reached:
        log(f"tracked with {', '.join(reached)} in {folder}")
    plain = [name for name in reached if name not in ILLUSTRATED]
    if plain:
        log(f"{', '.join(plain)}: scalars only; tables and figures go to {' and '.join(ILLUSTRATED)}")
    if failures:
        raise ConfigError(f"--with_tracking: the evaluation did not reach {'; '.join(failures)}. {ADVICE}")


def _track_with(name: str, tracked: Tracked, folder: Path, settings: Mapping[str, Any]) -> None:
    """Start a tracker, send the evaluation, and finish the tracker even after an error."""
    # Nothing is computed here; "no" ignores a mixed precision from the launch that the device lacks.
    accelerator = make_accelerator(mixed_precision="no", report_to=name, project_dir=folder)
    try:
        open_trackers(accelerator, settings)
        for tracker in accelerator.trackers:
            _track(tracker, tracked)
    except BaseException:
        for tracker in accelerator.trackers:
            with suppress(Exception):  # report the first error: a tracker that did not start cannot finish
                tracker.finish()
        raise
    for tracker in accelerator.trackers:
        tracker.finish()


def _track(tracker: Any, tracked: Tracked) -> None:
    scalars = tracked.scalars if tracker.name in ILLUSTRATED else _plain_names(tracked.scalars)
    tracker.log(dict(scalars), step=0)
    if tracker.name == "tensorboard":
        texts = {f"tables/{name}": _markdown(*table) for name, table in tracked.tables.items()}
        tracker.log(texts, step=0)
    elif tracker.name == "wandb":
        for name, (header, rows) in tracked.tables.items():
            tracker.log_table(f"tables/{name}", columns=list(header), data=list(map(list, rows)), step=0)
    if tracker.name in ILLUSTRATED:
        # TensorBoard's writer expects channels first by default; wandb takes height, width, channels.
        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        images = {f"figures/{name}": pixels[np.newaxis] for name, pixels in tracked.images.items()}
        tracker.log_images(images, step=0, **layout)


def _plain_names(scalars: Mapping[str, float]) -> dict[str, float]:
    """Return the scalars with names that every tracker accepts: "retrieval/tuned/ndcg_at_10", "..._low".

    MLflow allows letters, digits and `/_.- :` (mlflow.utils.validation). Its file store turns slashes into
    folders, so a name must not also be the group of another name.
    """
    named = {}
    for name, value in scalars.items():
        group, _, last = name.rpartition("/")
        unlike_groups = f"{group}_{last}" if group in scalars else name
        named[re.sub(r"[^/\w.\- :]", "_", unlike_groups.replace("@", "_at_"))] = value
    return named


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heading, *body = [list(map(markdown.escaped, row)) for row in (header, *rows)]
    return markdown.table(heading, body)
