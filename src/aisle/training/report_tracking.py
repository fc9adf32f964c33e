"""An evaluation in the experiment trackers: figures as scalars, tables, charts as images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle import markdown
from aisle.errors import ConfigError
from aisle.training.accelerator import make_accelerator, start_trackers

ILLUSTRATED = ("wandb", "tensorboard")
"""Trackers that are given tables and images too."""


@dataclass(frozen=True)
class Tracked:
    """What the trackers are given.

    Args:
        scalars: by name; slashes make groups.
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

    The trackers are finished one by one: `Accelerator.end_training` would take the process group down too,
    on this process alone.

    Args:
        tracked: the evaluation.
        report_to: trackers with commas, or `all`.
        folder: where those write that write files.
        settings: of the evaluation, without secrets.
        say: told which trackers got the scalars alone.

    Raises:
        ConfigError: a tracker is unknown, or failed; the others have the whole evaluation.
        OptionalDependencyError: a tracker is not installed.
    """
    accelerator = make_accelerator(mixed_precision=None, report_to=report_to, project_dir=folder)
    start_trackers(accelerator, settings)
    failures = []
    for tracker in accelerator.trackers:
        try:
            _track(tracker, tracked)
            tracker.finish()
        except Exception as error:
            # Every tracker has errors of its own: no network, a full disk, a name that it does not like.
            failures.append(f"{tracker.name} ({type(error).__name__}: {error})")
    plain = [tracker.name for tracker in accelerator.trackers if tracker.name not in ILLUSTRATED]
    if plain:
        say(f"{', '.join(plain)}: the scalars alone; tables and figures go to {' and '.join(ILLUSTRATED)}")
    if failures:
        raise ConfigError(f"--with_tracking: the evaluation did not reach {'; '.join(failures)}")


def _track(tracker: Any, tracked: Tracked) -> None:
    tracker.log(dict(tracked.scalars), step=0)
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


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heading, *body = [list(map(markdown.escaped, row)) for row in (header, *rows)]
    return markdown.table(heading, body)
