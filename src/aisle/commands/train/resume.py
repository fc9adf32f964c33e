"""Resume a run from a checkpoint, and print the command that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aisle.commands.train.launch_command import resume_command, started_as
from aisle.commands.train.run_identity import STEPS, values_before_settings_existed
from aisle.commands.train.settings import TrainSettings
from aisle.errors import CheckpointError
from aisle.models.run_file import SETTINGS_FILE
from aisle.training.checkpoint import Checkpoint, check_identity, find_checkpoint
from aisle.training.loop import Trainer
from aisle.training.trained_weights import trained_names

CONSTANT = ("constant", "constant_with_warmup")
"""Schedules with a learning rate that does not depend on the number of steps."""


def resume(settings: TrainSettings, run_dir: Path, trainer: Trainer, *, log: Callable[[str], None]) -> bool:
    """Load the checkpoint of --resume_from_checkpoint; return whether that flag is set.

    Raises:
        CheckpointError: There is no complete checkpoint, or it belongs to another run.
    """
    wanted = settings.run.resume_from_checkpoint
    if wanted is None:
        return False
    try:
        checkpoint, damaged = find_checkpoint(run_dir, wanted)
    except CheckpointError as error:
        if (run_dir / SETTINGS_FILE).is_file():
            raise CheckpointError(f"{error}\nThe run is finished: {_how_to_train_further(run_dir)}") from None
        raise
    for problem in damaged:
        log(f"warning: skipped a damaged checkpoint: {problem}")
    note = check_resumable(checkpoint, trainer.identity, settings, run_dir)
    trainer.accelerator.load_state(str(checkpoint.path))
    if trainer.accelerator.is_main_process:
        trained = trained_names(trainer.accelerator.unwrap_model(trainer.model))
        trainer.best_weights = checkpoint.best_weights(trained)
    log(f"resuming from {checkpoint.path}, step {checkpoint.step:,}")
    if note is not None:
        log(note)
    tokens = trainer.state.sub_batch_tokens
    if tokens is not None:
        log(f"memory ran out before: batches are encoded in sub-batches of {tokens:,} tokens")
    return True


def check_resumable(
    checkpoint: Checkpoint, identity: dict[str, Any], settings: TrainSettings, run_dir: Path
) -> str | None:
    """Refuse a checkpoint that the run cannot resume from; return a note if the number of steps differs.

    A different number of steps is allowed if the learning rate of each step stays the same: the result is
    then the same as that of a run with this number of steps from the beginning.

    Raises:
        CheckpointError: The checkpoint belongs to another run, or the number of steps changes the learning
            rates.
    """
    # Earlier versions wrote no value of a setting that they did not have; they trained as its default does.
    checkpoint = replace(checkpoint, identity={**values_before_settings_existed(), **checkpoint.identity})
    before, now = checkpoint.identity.get(STEPS), identity[STEPS]
    if before in (None, now):
        check_identity(checkpoint, identity)
        return None
    check_identity(checkpoint, {name: value for name, value in identity.items() if name != STEPS})
    shape = settings.optim.lr_scheduler_type
    if shape not in CONSTANT:
        raise CheckpointError(
            f"{checkpoint.path}: {STEPS} were {before:,} and are now {now:,}, and --lr_scheduler_type "
            f"{shape} spreads the learning rate over all steps: the steps so far would have "
            f"used other rates. Resume with the former number, or, when the run is finished, "
            f"{_how_to_train_further(run_dir)}. "
            f"A run with --lr_scheduler_type {' or '.join(CONSTANT)} can be given more epochs"
        )
    if now < checkpoint.step:
        raise CheckpointError(
            f"{checkpoint.path}: is beyond the run's {now:,} steps; give a higher --num_train_epochs or "
            "--max_train_steps"
        )
    return (
        f"{STEPS}: {now:,}; they were {before:,} when the checkpoint was written. --lr_scheduler_type "
        f"{shape} does not depend on them: the result is that of a run with {now:,} steps from the beginning"
    )


def how_to_resume(trainer: Trainer, why: str, *, from_python: bool) -> str:
    """Return the message for the user of a stopped run: where the checkpoint is and how to resume."""
    if from_python:
        how = 'call aisle.train again with the same arguments and resume_from_checkpoint="latest"'
    else:
        how = f"resume with: {resume_command(*started_as())}"
    checkpoint = trainer.checkpoints_dir / f"step_{trainer.state.step:08d}"
    return f"{why} after step {trainer.state.step:,} of {trainer.schedule.total_steps:,}: {checkpoint}\n{how}"


def _how_to_train_further(run_dir: Path) -> str:
    return f"train its model further in a new run: --model_name_or_path {run_dir} and another --output_dir"
