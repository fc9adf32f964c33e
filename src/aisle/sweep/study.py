"""A study on disk: trials, their results, and the processes that share it.

The study is one file, an append-only journal of Optuna (Akiba et al. 2019, https://arxiv.org/abs/1907.10902).
Values are suggested by the tree-structured Parzen estimator, and trials are pruned by the median rule. Locks
end with their process, so a trial that was killed is found at once and tried again.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from aisle.errors import ConfigError, IndexLockedError
from aisle.io.lock import take_lock, wait_for_lock
from aisle.sweep.search_space import SearchSpace, Value
from aisle.sweep.trial import Result, Trial, result_of

__all__ = ["LOCK", "STUDY", "Study"]

STUDY = "study.journal"
LOCK = "sweep.lock"
TRIALS = "trials"
MOST_ATTEMPTS = 2
"""Attempts at a trial whose process was killed, such as for memory."""
STARTUP_TRIALS = 8
"""Trials before the estimator suggests values; starting points count."""
UNPRUNED_TRIALS = 4
"""Trials that are never pruned, so that there is a median to compare with."""


class _KernelLock:
    """Lock of the journal that ends with its process; Optuna's own stays if the process is killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: Any = None

    def acquire(self) -> bool:
        self._held = wait_for_lock(self._path)
        return True

    def release(self) -> None:
        self._held.release()


class Study:
    """The study of a folder, which several processes can share.

    Args:
        folder: Folder of the sweep.
        space: Searched settings.
        seed: Seed of the suggestions; the trial's number is added to it.
        identity: Settings that a study must share with earlier calls, by name.
        starts: Starting points by name, which are tried first.

    Raises:
        ConfigError: The folder holds a study of other settings.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        *,
        seed: int,
        identity: Mapping[str, str],
        starts: Sequence[tuple[str, Mapping[str, Value]]] = (),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self._space, self._seed = folder, space, seed
        (folder / TRIALS).mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            lock: Any = _KernelLock(folder / f"{STUDY}.lock")
            backend = JournalFileBackend(str(folder / STUDY), lock_obj=lock)
            with self._alone():
                self._study = optuna.create_study(
                    study_name="sweep",
                    storage=JournalStorage(backend),
                    direction="maximize",
                    pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_min_trials=3),
                    load_if_exists=True,
                )
                self._check(identity)
                if not self._study.get_trials(deepcopy=False):
                    for name, values in starts:
                        self._study.enqueue_trial(dict(values), user_attrs={"start": name})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes of the sweep out while the block runs."""
        lock = wait_for_lock(self.folder / LOCK)
        try:
            yield
        finally:
            lock.release()

    def _check(self, identity: Mapping[str, str]) -> None:
        before = self._study.user_attrs.get("identity")
        if before is None:
            self._study.set_user_attr("identity", dict(identity))
        elif before != dict(identity):
            names = sorted(set(before) | set(identity))
            first = next(name for name in names if before.get(name) != identity.get(name))
            raise ConfigError(
                f"--output_dir {self.folder}: holds a sweep with other settings: {first} was "
                f"{before.get(first, 'not set')} and is now {identity.get(first, 'not set')}; give the same "
                "settings, or another folder"
            )

    def next_trial(self, *, most: int | None = None) -> Trial | None:
        """Return the next trial; None if the study has `most` trials."""
        with self._alone():
            self._retry_abandoned()
            begun = [one for one in self._trials() if one.state not in (TrialState.WAITING,)]
            lost = set(self._lost())
            if most is not None and sum(one.number not in lost for one in begun) >= most:
                return None
            number = next((one.number for one in self._trials() if one.state == TrialState.WAITING), None)
            self._study.sampler = self._sampler(len(begun) if number is None else number)
            trial = self._study.ask()
            folder = self._folder(trial.number)
            lock = take_lock(folder.with_suffix(".lock"), "a sweep")
            values = self._space.suggest(trial)
            return Trial(trial.number, values, folder, trial, self._study, lock, self.retry)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Return a sampler of its own for each trial: a sweep that is resumed suggests the same values."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some options are experimental
            return optuna.samplers.TPESampler(
                seed=self._seed + number,
                n_startup_trials=STARTUP_TRIALS,
                multivariate=True,
                constant_liar=True,
            )

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _folder(self, number: int) -> Path:
        return self.folder / TRIALS / f"{number:04d}"

    def _lost(self) -> list[int]:
        """Return the numbers of trials that ended without a result: their process was killed or stopped."""
        return list(self._study.user_attrs.get("lost", []))

    def _retry_abandoned(self) -> None:
        """End trials whose process no longer exists, and queue them again."""
        for trial in self._trials():
            if trial.state != TrialState.RUNNING or self._is_alive(trial.number):
                continue
            attempt = int(trial.user_attrs.get("attempt", 1))
            self._forget(trial)
            if attempt < MOST_ATTEMPTS:
                self._queue_again(trial, attempt=attempt + 1)

    def retry(self, number: int) -> None:
        """End a trial of this process without a result, and queue it again."""
        with self._alone():
            trial = self._trials()[number]
            self._study.set_user_attr("stopped", [*self._study.user_attrs.get("stopped", []), number])
            self._forget(trial)
            self._queue_again(trial, attempt=int(trial.user_attrs.get("attempt", 1)))

    def _forget(self, trial: FrozenTrial) -> None:
        self._study.tell(trial.number, state=TrialState.FAIL)
        self._study.set_user_attr("lost", [*self._lost(), trial.number])
        folder = self._folder(trial.number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)

    def _queue_again(self, trial: FrozenTrial, *, attempt: int) -> None:
        values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        kept = {name: trial.user_attrs[name] for name in ("start",) if name in trial.user_attrs}
        self._study.enqueue_trial(values, user_attrs={**kept, "attempt": attempt})

    def _is_alive(self, number: int) -> bool:
        try:
            lock = take_lock(self._folder(number).with_suffix(".lock"), "a sweep")
        except IndexLockedError:
            return True
        lock.release()
        return False

    def others_run(self) -> bool:
        """Return whether another process has a trial."""
        with self._alone():
            self._retry_abandoned()
            return any(one.state == TrialState.RUNNING for one in self._trials())

    def results(self) -> list[Result]:
        """Return the trials that began, by number; without those whose process was killed."""
        lost = set(self._lost())
        return [
            result_of(one)
            for one in self._trials()
            if one.number not in lost and one.state != TrialState.WAITING
        ]

    def ranked(self) -> list[Result]:
        """Return the complete trials, the best first; equal ones in the order of their numbers."""
        complete = [one for one in self.results() if one.state == "complete"]
        return sorted(complete, key=lambda one: (-(one.value or 0.0), one.number))

    def spent(self) -> float:
        """Return the seconds in which at least one trial ran; several processes at a time count once.

        Nobody knows when a process was killed, so the time of its trial does not count.
        """
        lost = set(self._lost()) - set(self._study.user_attrs.get("stopped", []))
        spans = sorted(
            (one.datetime_start, one.datetime_complete)
            for one in self._trials()
            if one.number not in lost and one.datetime_start and one.datetime_complete
        )
        seconds, reached = 0.0, None
        for start, end in spans:
            begin = start if reached is None or start > reached else reached
            if end > begin:
                seconds += (end - begin).total_seconds()
            reached = end if reached is None else max(reached, end)
        return seconds

    def remove_runs(self, *, keep: int) -> None:
        """Remove the runs of all but the best trials; the first, which the best is compared with, stays."""
        with self._alone():
            ranked = self.ranked()
            for one in ranked[keep:]:
                if one.number != min(each.number for each in ranked):
                    shutil.rmtree(self._folder(one.number), ignore_errors=True)

    def count_measurement(self) -> int:
        """Return how often the winner was measured on unseen queries, this time included."""
        with self._alone():
            count = int(self._study.user_attrs.get("measured", 0)) + 1
            self._study.set_user_attr("measured", count)
            return count
