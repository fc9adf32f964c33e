"""Run trials until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from aisle.errors import AisleError, TrainingStopped
from aisle.sweep.study import Study
from aisle.sweep.trial import Result, Trial, TrialPruned

__all__ = ["Clock", "run_trials"]

MOST_FAILURES = 3
"""Failures in a row, before any trial is complete, after which the sweep stops with the last error."""
OUT_OF_TIME = "the budget is spent"


@dataclass(frozen=True)
class Clock:
    """The time that is left.

    Attributes:
        deadline: Time at which the budget is spent, as `now` counts.
        now: Function that returns the time in seconds.
    """

    deadline: float
    now: Callable[[], float] = time.monotonic

    @property
    def left(self) -> float:
        """Seconds that are left, possibly below 0."""
        return self.deadline - self.now()

    def check(self) -> None:
        """Raise if the budget is spent.

        Raises:
            TrialPruned: The budget is spent.
        """
        if self.left <= 0:
            raise TrialPruned(OUT_OF_TIME)


def run_trials(
    study: Study,
    objective: Callable[[Trial], float],
    clock: Clock,
    *,
    most: int | None,
    keep: int,
    on_result: Callable[[Result], None] = lambda _: None,
) -> None:
    """Run trials until the budget is spent or the study has `most` of them.

    No trial begins if less time is left than the shortest complete trial took. The last is ended by
    `objective`, which calls `clock.check`.

    Args:
        study: The study; others may work on it too.
        objective: Function that trains a trial and returns its validation figure. It raises TrialPruned to
            end the trial early, and AisleError if the values cannot be trained.
        clock: Time that is left.
        most: Trials of the study; None is no limit.
        keep: Runs of the best trials to keep.
        on_result: Function called with each trial that ends.

    Raises:
        AisleError: The first trials failed, or training was stopped by a signal.
    """
    failures = 0
    while clock.left > _shortest(study):
        trial = study.next_trial(most=most)
        if trial is None:
            return
        try:
            trial.complete(objective(trial))
            failures = 0
        except TrialPruned as pruned:
            trial.prune(str(pruned))
        except TrainingStopped as stopped:
            trial.abandon()
            raise TrainingStopped(
                f"{stopped} in trial {trial.number}\nthe same command goes on with the sweep, and this trial "
                "begins again"
            ) from None
        except AisleError as error:
            trial.fail(str(error))
            failures += 1
            if failures >= MOST_FAILURES and not study.ranked():
                raise
        except BaseException:
            trial.abandon()
            raise
        study.remove_runs(keep=keep)
        on_result(next(one for one in study.results() if one.number == trial.number))


def _shortest(study: Study) -> float:
    """Return the seconds of the shortest complete trial; 0 if there is none."""
    return min((one.seconds or 0.0 for one in study.ranked()), default=0.0)
