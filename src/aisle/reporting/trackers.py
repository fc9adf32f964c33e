"""An evaluation in the experiment trackers: figures as scalars, tables, charts as images."""

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
"""Trackers that are given tables and images too."""


@dataclass(frozen=True)
class Tracked:
    """What the trackers are given.

    Args:
        scalars: by name; slashes make groups. Other trackers than `ILLUSTRATED` get plainer names.
        tables: (header, rows of cells) by name.
        images: (height, width, 3) uint8 by name.
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
    say: Callable[[str], None],
) -> None:
    """Give an evaluation to the trackers as a run of its own; call on the main process alone.

    The trackers are started and finished one by one, so that one that cannot start costs the others nothing.
    `Accelerator.end_training` would take the process group down too, on this process alone.

    Args:
        tracked: the evaluation.
        report_to: trackers with commas, or `all`.
        folder: where those write that write files.
        settings: of the evaluation, without secrets.
        say: told which trackers have the evaluation, and which got the scalars alone.

    Raises:
        ConfigError: a tracker is unknown, or failed; the others have the whole evaluation.
        OptionalDependencyError: a tracker is not installed.
    """
    reached, failures = [], []
    for name in tracker_names(report_to):
        try:
            _track_with(name, tracked, folder, settings)
            reached.append(name)
        except Exception as error:
            # Every tracker has errors of its own: no key, no network, a full disk.
            failures.append(f"{name} ({type(error).__name__}: {error})")
    if reached:
        say(f"tracked with {', '.join(reached)} in {folder}")
    plain = [name for name in reached if name not in ILLUSTRATED]
    if plain:
        say(f"{', '.join(plain)}: the scalars alone; tables and figures go to {' and '.join(ILLUSTRATED)}")
    if failures:
        raise ConfigError(f"--with_tracking: the evaluation did not reach {'; '.join(failures)}. {ADVICE}")


def _track_with(name: str, tracked: Tracked, folder: Path, settings: Mapping[str, Any]) -> None:
    """Start one tracker, give it the evaluation and finish it, whatever happens."""
    # Nothing is computed here, and a compute type of the launch environment that the device lacks is refused.
    accelerator = make_accelerator(mixed_precision="no", report_to=name, project_dir=folder)
    try:
        open_trackers(accelerator, settings)
        for tracker in accelerator.trackers:
            _track(tracker, tracked)
    except BaseException:
        for tracker in accelerator.trackers:
            with suppress(Exception):  # the first error is the one to tell: what did not start cannot finish
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
        # TensorBoard's writer expects channels first where it is not told; wandb takes pictures as they are.
        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        images = {f"figures/{name}": pixels[np.newaxis] for name, pixels in tracked.images.items()}
        tracker.log_images(images, step=0, **layout)


def _plain_names(scalars: Mapping[str, float]) -> dict[str, float]:
    """Return the scalars by names that every tracker takes: "retrieval/tuned/ndcg_at_10", "..._low".

    MLflow allows letters, digits and `/_.- :` (mlflow.utils.validation) and, where it writes files, makes the
    slashes folders: a name can then be no other's group.
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
