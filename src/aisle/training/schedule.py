"""When a run ends, evaluates, logs and saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Due:
    """What is to be done between two steps."""

    log: bool
    evaluation: bool
    checkpoint: bool

    @property
    def anything(self) -> bool:
        """Whether any of it is."""
        return self.log or self.evaluation or self.checkpoint


@dataclass(frozen=True)
class Schedule:
    """When a run ends, evaluates, logs and saves, in optimiser steps.

    Args:
        total_steps: steps in all.
        eval_steps: evaluate every so many steps as well as after each epoch.
        logging_steps: log every so many steps.
        checkpointing_steps: write a checkpoint every so many steps, or after each epoch.
        checkpoints_to_keep: older ones than so many are removed; None keeps all.
        early_stopping_patience: stop after so many evaluations without a better one; None is off.
    """

    total_steps: int
    eval_steps: int | None
    logging_steps: int
    checkpointing_steps: int | Literal["epoch"] | None
    checkpoints_to_keep: int | None
    early_stopping_patience: int | None

    def due(self, step: int, *, epoch_ends: bool) -> Due:
        """Return what is to be done after a step."""
        last = step == self.total_steps

        def every(steps: int | None) -> bool:
            return steps is not None and step % steps == 0

        saves = self.checkpointing_steps
        return Due(
            log=last or every(self.logging_steps),
            evaluation=last or epoch_ends or every(self.eval_steps),
            checkpoint=epoch_ends if saves == "epoch" else every(saves),
        )
