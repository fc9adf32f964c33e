"""A trial of a study: its values, its reports and its end."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from aisle.sweep.search_space import Value

__all__ = ["Result", "Trial", "TrialPruned", "result_of"]


class TrialPruned(Exception):  # noqa: N818 (it is no error)
    """A trial is worse than the others so far, or its time is over."""


@dataclass(frozen=True)
class Result:
    """A trial that ended.

    Attributes:
        number: Number of the trial, from 0.
        state: complete, pruned, failed or running.
        value: Best validation figure; None if there is none.
        values: Values of the searched settings.
        seconds: Duration; None while it runs.
        note: Reason why it was pruned or failed, or the name of the starting point.
        start: Name of the starting point, if it was one.
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, Value]
    seconds: float | None
    note: str
    start: str


@dataclass
class Trial:
    """A trial of this process.

    Attributes:
        number: Number of the trial.
        values: Values of the searched settings.
        folder: Folder of its run.
    """

    number: int
    values: dict[str, Value]
    folder: Path
    _trial: optuna.Trial = field(repr=False)
    _study: optuna.Study = field(repr=False)
    _lock: Any = field(repr=False)
    _queue_again: Callable[[int], None] = field(repr=False)

    def report(self, value: float, *, progress: int) -> None:
        """Record an evaluation.

        Args:
            value: Figure to maximise.
            progress: Part of the run that is done, in quarters; a trial is compared at equal progress.

        Raises:
            TrialPruned: The trial is worse than the median of the others at this progress.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a second evaluation in the same quarter is ignored
            self._trial.report(value, progress)
        if self._trial.should_prune():
            raise TrialPruned(f"below the median after {progress} of 4 quarters")

    def complete(self, value: float) -> None:
        """Record the result."""
        self._end(TrialState.COMPLETE, value=value)

    def prune(self, reason: str) -> None:
        """Record that the trial was ended early; its run is removed."""
        self._trial.set_user_attr("note", reason)
        self._end(TrialState.PRUNED)
        shutil.rmtree(self.folder, ignore_errors=True)

    def fail(self, reason: str) -> None:
        """Record that the trial cannot be trained; its run is removed."""
        self._trial.set_user_attr("note", reason)
        self._end(TrialState.FAIL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def abandon(self) -> None:
        """End the trial without a result, and queue it again."""
        self._queue_again(self.number)
        self._lock.release()

    def _end(self, state: TrialState, value: float | None = None) -> None:
        self._study.tell(self._trial, value, state=state)
        with suppress(OSError):
            self.folder.with_suffix(".lock").unlink()
        self._lock.release()


def result_of(trial: FrozenTrial) -> Result:
    """Return a trial of Optuna as the sweep shows it."""
    state = {TrialState.FAIL: "failed"}.get(trial.state, trial.state.name.lower())
    seconds = None if trial.duration is None else trial.duration.total_seconds()
    return Result(
        trial.number,
        state,
        trial.value if trial.state == TrialState.COMPLETE else None,
        dict(trial.params),
        seconds,
        str(trial.user_attrs.get("note", "")),
        str(trial.user_attrs.get("start", "")),
    )
