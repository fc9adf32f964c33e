"""Train a trial as an ordinary run that reports its evaluations and ends in time."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aisle.commands.train.observer import Observer
from aisle.commands.train.run import train
from aisle.commands.train.settings import TrainSettings
from aisle.errors import TrainingError
from aisle.sweep.search import Clock
from aisle.sweep.trial import Trial

QUARTERS = 4
LOGGING_STEPS = 5
"""Steps between looks at the clock."""


def train_trial(trial: Trial, settings: TrainSettings, *, metric: str, pairs: int, clock: Clock) -> float:
    """Train a trial and return its best validation figure.

    Args:
        trial: The trial, which the evaluations after each quarter of the steps are reported to.
        settings: Settings of the run, without its folder.
        metric: Metric to maximise.
        pairs: Number of training pairs.
        clock: Time that is left.

    Raises:
        TrialPruned: The trial is worse than others, or the budget is spent.
        AisleError: The trial cannot be trained.
    """
    reported: set[int] = set()

    def on_evaluation(entry: Mapping[str, Any], step: int, steps: int) -> None:
        clock.check()
        quarter = min(QUARTERS, math.floor(QUARTERS * step / steps + 0.5))
        value = entry.get(metric)
        # The whole run is its result, which is not pruned any more.
        if value is None or quarter in reported or not 0 < quarter < QUARTERS:
            return
        reported.add(quarter)
        trial.report(float(value), progress=quarter)

    observer = Observer(on_log=lambda _step, _steps: clock.check(), on_evaluation=on_evaluation)
    try:
        finished = train(run_settings(settings, trial, pairs=pairs), observer=observer)
    finally:
        gc.collect()  # tensors in reference cycles
    best = finished.metrics.get("best") or {}
    value = best.get(metric)
    if value is None:
        raise TrainingError(f"{metric} is undefined on the validation pairs")
    return float(value)


def run_settings(settings: TrainSettings, trial: Trial, *, pairs: int) -> TrainSettings:
    """Return the settings of a trial's run: its folder, and an evaluation after each quarter."""
    optim = settings.optim
    batch = optim.per_device_train_batch_size * optim.gradient_accumulation_steps
    steps = optim.num_train_epochs * math.ceil(pairs / batch)
    run = replace(
        settings.run,
        output_dir=str(trial.folder),
        eval_steps=max(1, math.ceil(steps / QUARTERS)),
        eval_epochs=optim.num_train_epochs,
        logging_steps=LOGGING_STEPS,
        checkpointing_steps=None,
        json=False,
    )
    return replace(settings, run=run)
