"""Schedule of a run: the steps after which to log, evaluate, save and end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Due:
    """Actions that are due after a step."""

    log: bool
    evaluation: bool
    checkpoint: bool

    @property
    def anything(self) -> bool:
        """Whether anything is due."""
        return self.log or self.evaluation or self.checkpoint


@dataclass(frozen=True)
class Schedule:
    """Steps after which to log, evaluate, save and end a run, counted in optimiser steps.

    Args:
        total_steps: Number of steps of the whole run.
        eval_steps: Steps between evaluations; None evaluates only at the end of epochs.
        logging_steps: Steps between logs.
        checkpointing_steps: Steps between checkpoints, or `epoch`; None saves no checkpoints.
        checkpoints_to_keep: Number of newest checkpoints to keep; None keeps all.
        early_stopping_patience: Evaluations in a row without improvement after which to stop; None is off.
        eval_epochs: Epochs between the evaluations at the end of epochs.
    """

    total_steps: int
    eval_steps: int | None
    logging_steps: int
    checkpointing_steps: int | Literal["epoch"] | None
    checkpoints_to_keep: int | None
    early_stopping_patience: int | None
    eval_epochs: int = 1

    def due(self, step: int, *, epoch: int, epoch_ends: bool) -> Due:
        """Return the actions that are due after a step.

        Args:
            step: Number of the step, from 1.
            epoch: Index of its epoch, from 0.
            epoch_ends: Whether the step is the last of its epoch.
        """
        last = step == self.total_steps

        def every(steps: int | None) -> bool:
            return steps is not None and step % steps == 0

        evaluated_epoch = epoch_ends and (epoch + 1) % self.eval_epochs == 0
        saves = self.checkpointing_steps
        return Due(
            log=last or every(self.logging_steps),
            evaluation=last or evaluated_epoch or every(self.eval_steps),
            checkpoint=epoch_ends if saves == "epoch" else every(saves),
        )
