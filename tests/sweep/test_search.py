"""Sweeps of a made-up objective: budget, pruning, resuming after a kill, and processes that share a study."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from aisle.errors import ConfigError, TrainingError, TrainingStopped
from aisle.sweep.search import Clock, run_trials
from aisle.sweep.search_space import Choice, Range, SearchSpace
from aisle.sweep.study import Study
from aisle.sweep.trial import TrialPruned

SPACE = SearchSpace(
    {"rate": Range(1e-4, 1e-2, log=True), "loss": Choice(("good", "bad")), "epochs": Range(1, 5, whole=True)}
)
START = {"rate": 1e-3, "loss": "good", "epochs": 3}


def study(folder, *, starts=(("recipe", START),), identity=None, seed=0):
    return Study(folder, SPACE, seed=seed, identity=identity or {"data": "pairs"}, starts=starts)


def value_of(trial):
    """Return a figure that is highest for a good loss at a rate of 3e-3."""
    import math

    return (trial.values["loss"] == "good") - abs(math.log10(trial.values["rate"] / 3e-3)) / 10


class Time:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run(one, objective, *, most, budget=1000.0, time=None, keep=3):
    run_trials(one, objective, Clock(budget, time or Time()), most=most, keep=keep)
    return one


def trained(trial):
    trial.folder.mkdir(parents=True)
    return value_of(trial)


def test_starting_points_come_first_and_the_search_finds_better_ones(tmp_path):
    found = run(study(tmp_path), trained, most=25).ranked()
    first = next(one for one in found if one.number == 0)
    assert (first.values, first.start) == (START, "recipe")
    assert found[0].value > first.value
    assert [one.value for one in found] == sorted((one.value for one in found), reverse=True)


def test_a_sweep_in_parts_suggests_what_a_whole_one_does(tmp_path):
    whole = run(study(tmp_path / "a"), trained, most=12).results()
    run(study(tmp_path / "b"), trained, most=5)
    parts = run(study(tmp_path / "b"), trained, most=12).results()
    assert [one.values for one in parts] == [one.values for one in whole]


def test_only_the_best_runs_and_the_first_stay_on_disk(tmp_path):
    one = run(study(tmp_path), trained, most=9, keep=2)
    there = {int(path.name) for path in (tmp_path / "trials").iterdir()}
    assert there == {0, *(each.number for each in one.ranked()[:2])}


def test_trials_below_the_median_are_pruned_at_equal_progress(tmp_path):
    reports = []

    def objective(trial):
        trial.folder.mkdir(parents=True)
        bad = trial.number >= 5
        for quarter in (1, 2, 3, 4):
            trial.report(0.0 if bad else 0.5 + quarter / 10, progress=quarter)
            reports.append((trial.number, quarter))
        return 0.9

    found = run(study(tmp_path), objective, most=7).results()
    assert [one.state for one in found] == ["complete"] * 5 + ["pruned"] * 2
    assert found[5].note == "below the median after 1 of 4 quarters"
    assert (4, 4) in reports
    assert not any(number >= 5 for number, _ in reports)
    assert {path.name for path in (tmp_path / "trials").iterdir()} == {"0000", "0001", "0002"}


def test_the_last_trial_is_ended_by_the_budget_and_no_other_begins(tmp_path):
    time = Time()
    clock = Clock(100.0, time)
    seconds = iter([40.0, 30.0, 70.0])

    def objective(trial):
        left = next(seconds)
        for _ in range(10):
            time.now += left / 10
            clock.check()
        return 0.5

    one = study(tmp_path)
    run_trials(one, objective, clock, most=None, keep=1)
    assert [(each.state, each.note) for each in one.results()] == [
        ("complete", ""),
        ("complete", ""),
        ("pruned", "the budget is spent"),
    ]
    assert time.now == pytest.approx(105, abs=3)


def test_no_trial_begins_if_less_time_is_left_than_the_shortest_took(tmp_path, monkeypatch):
    monkeypatch.setattr("aisle.sweep.search._shortest", lambda study: 30.0 if study.ranked() else 0.0)
    time = Time()

    def objective(trial):
        time.now += 40
        return 0.5

    assert len(run(study(tmp_path), objective, most=None, budget=100.0, time=time).results()) == 2


def test_failing_values_are_recorded_and_the_first_failures_stop_the_sweep(tmp_path):
    def sometimes(trial):
        if trial.values["loss"] == "bad":
            raise TrainingError("the loss is not a number")
        return 0.5

    found = run(study(tmp_path / "a"), sometimes, most=10).results()
    assert {(one.state, one.note) for one in found if one.values["loss"] == "bad"} == {
        ("failed", "the loss is not a number")
    }

    def never(trial):
        raise TrainingError(f"no memory for trial {trial.number}")

    with pytest.raises(TrainingError, match="trial 2"):
        run(study(tmp_path / "b"), never, most=10)


def test_a_stopped_trial_is_tried_again_with_its_values(tmp_path):
    def stopped(trial):
        if trial.number == 1:
            raise TrainingStopped("SIGTERM: stopped")
        return trained(trial)

    with pytest.raises(TrainingStopped, match=r"SIGTERM: stopped in trial 1\nthe same command goes on"):
        run(study(tmp_path), stopped, most=3)
    spans = [
        (one.datetime_complete - one.datetime_start).total_seconds()
        for one in study(tmp_path)._study.get_trials()[:2]
    ]
    assert study(tmp_path).spent() == pytest.approx(sum(spans))
    lost = study(tmp_path)._study.get_trials()[1].params
    found = run(study(tmp_path), trained, most=3).results()
    assert [one.number for one in found] == [0, 2, 3]
    assert found[1].values == lost


def test_another_study_in_the_folder_is_refused(tmp_path):
    study(tmp_path)
    with pytest.raises(ConfigError, match="data was pairs and is now other"):
        study(tmp_path, identity={"data": "other"})


def test_starts_are_moved_into_the_space_and_left_out_if_they_cannot_be():
    space = SearchSpace({"loss": Choice(("cosent",)), "batch": Choice((16, 64)), "rate": Range(1e-4, 1e-2)})
    wanted = [
        {"loss": "cosent", "batch": 128, "rate": 1.0, "unknown": 1},
        {"loss": "cosent", "batch": 64, "rate": 1e-2},
        {"loss": "circle", "batch": 64},
    ]
    assert space.starts(wanted) == [{"loss": "cosent", "batch": 64, "rate": 1e-2}]


WORKER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from aisle.sweep.search import Clock, run_trials
    from tests.sweep.test_search import study, trained

    folder, hang = Path(sys.argv[1]), int(sys.argv[2])

    def objective(trial):
        (folder / f"began {trial.number}").touch()
        if trial.number == hang:
            time.sleep(600)
        time.sleep(0.02)
        return trained(trial)

    run_trials(study(folder), objective, Clock(time.monotonic() + 600), most=8, keep=2)
    """
)


def wait_for(condition, patience=120):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_killed_trial_is_tried_again_while_another_process_goes_on(tmp_path):
    worker = [sys.executable, "-c", WORKER, str(tmp_path)]
    killed = subprocess.Popen([*worker, "1"], env={**os.environ, "PYTHONPATH": os.getcwd()})
    wait_for((tmp_path / "began 1").exists)
    # This process shares the study; the trial of the other is neither retried nor repeated.
    run(study(tmp_path), trained, most=4)
    assert [one.state for one in study(tmp_path).results()] == ["complete", "running", "complete", "complete"]
    assert study(tmp_path).others_run()
    values = study(tmp_path).results()[1].values
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not study(tmp_path).others_run()
    found = run(study(tmp_path), trained, most=6).results()
    assert [one.number for one in found] == [0, 2, 3, 4, 5, 6]
    assert found[3].values == values
    assert {one.state for one in found} == {"complete"}


def test_pruned_is_raised_by_the_clock():
    with pytest.raises(TrialPruned, match="the budget is spent"):
        Clock(1.0, lambda: 2.0).check()
