"""Run a sweep: divide the queries, run trials, average the best, measure the winner, write the results."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from aisle.commands.output import Output, quieten_libraries
from aisle.commands.sweep.final_model import AVERAGE, Measure, Measured, average_best
from aisle.commands.sweep.metric_choice import choose_selection
from aisle.commands.sweep.query_split import QuerySplit, split_queries, with_data
from aisle.commands.sweep.searched_settings import (
    search_space,
    settings_of_trial,
    starting_points,
)
from aisle.commands.sweep.settings import SweepSettings, train_settings
from aisle.commands.sweep.sweep_report import Report, TrialTable, write_report
from aisle.commands.sweep.train_trial import train_trial
from aisle.commands.train.auto_choice import choose
from aisle.commands.train.base_models import load_base_models
from aisle.commands.train.loss_settings import AUTO
from aisle.commands.train.settings import TrainSettings
from aisle.config.load import saved_form
from aisle.errors import ConfigError, EvaluationError, TrainingError
from aisle.models.adapters import linear_layer_names
from aisle.sweep.duration import duration_of, shown_duration
from aisle.sweep.search import Clock, run_trials
from aisle.sweep.study import Study
from aisle.sweep.trial import Result
from aisle.training.selection import SELECTION_METRICS

FREE_TO_CHANGE = ("output_dir", "threads", "json", "per_device_eval_batch_size", "max_tokens_per_sub_batch")
"""Settings that may differ between calls of the same sweep; the budget and the number of trials may too."""


def sweep(settings: SweepSettings) -> Report | None:
    """Search for the settings of a training and return the report; None if another process goes on.

    Raises:
        AisleError: The settings, the data or the model cannot be used, or no trial could be trained.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a sweep trains each trial in one process; start `aisle sweep` several times with the same "
            "--output_dir, each with a GPU of its own (CUDA_VISIBLE_DEVICES), in place of a launcher"
        )
    output = Output(json_only=settings.run.json)
    quieten_libraries()
    folder = Path(str(settings.run.output_dir))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output_dir {folder}: cannot be written: {error}") from None
    plain = train_settings(settings)
    split = split_queries(plain, folder, unseen_share=settings.searching.unseen_share, log=output.log)
    if plain.objective.loss == AUTO:
        objective = replace(plain.objective, loss=choose(split.train).loss)
        settings, plain = replace(settings, objective=objective), replace(plain, objective=objective)
    selection = choose_selection(plain.run.selection, split, log=output.log)
    metric = SELECTION_METRICS[selection]
    fixed = with_data(replace(plain, run=replace(plain.run, selection=selection)), split, "validation")
    layers = _layers(plain, output)
    study = _open_study(settings, plain, split, folder, layers)
    left = duration_of(settings.searching.budget) - study.spent()
    if left > 0:
        output.log(
            f"{shown_duration(left)} left of --budget {settings.searching.budget}; trials are compared by "
            f"{metric} on the validation queries"
        )
    table = TrialTable(output, study, metric)
    clock = Clock(time.monotonic() + left)
    run_trials(
        study,
        lambda trial: train_trial(
            trial,
            settings_of_trial(fixed, trial.values, layers=layers),
            metric=metric,
            pairs=len(split.train),
            clock=clock,
        ),
        clock,
        most=settings.searching.trials,
        keep=settings.searching.keep_runs,
        on_result=table.add,
    )
    return _finish(settings, fixed, split, study, folder, layers, metric, output)


def _layers(settings: TrainSettings, output: Output) -> tuple[str, ...]:
    """Return the names of all linear layers if the search may adapt them; otherwise nothing."""
    lora = settings.lora
    if not lora.use_peft or lora.lora_target_modules is not None or settings.towers.two_towers:
        return ()
    base = load_base_models(settings, log=output.log)
    return () if base.adapter is not None else tuple(sorted(linear_layer_names(base.backbone)))


def _open_study(
    settings: SweepSettings, plain: TrainSettings, split: QuerySplit, folder: Path, layers: tuple[str, ...]
) -> Study:
    space = search_space(settings, split.train, all_layers=bool(layers))
    if not space.settings:
        raise ConfigError(
            f"--search {' '.join(settings.searching.search)}: with these settings there is nothing to search"
        )
    points = starting_points(settings, split.train)
    inside = space.starts([values for _, values in points])
    starts = []
    for values in inside:
        name = next(name for name, point in points if space.starts([point]) == [values])
        starts.append((name, values))
    same = {name: value for name, value in saved_form(plain).items() if name not in FREE_TO_CHANGE}
    identity = {**same, "searched settings": {name: str(values) for name, values in space.settings.items()}}
    return Study(
        folder,
        space,
        seed=settings.optim.seed,
        identity={name: str(value) for name, value in identity.items()},
        starts=starts,
    )


def _finish(
    settings: SweepSettings,
    fixed: TrainSettings,
    split: QuerySplit,
    study: Study,
    folder: Path,
    layers: tuple[str, ...],
    metric: str,
    output: Output,
) -> Report | None:
    """Average, measure and write, unless another process of the sweep goes on."""
    if study.others_run():
        output.log("another process goes on with this sweep; the last to end writes the report")
        return None
    ranked = study.ranked()
    if not ranked:
        notes = [one.note for one in study.results() if one.note]
        raise TrainingError(
            f"no trial was complete ({notes[-1] if notes else 'there is no time left'}); give a longer "
            "--budget"
        )
    measure = Measure(fixed, split, metric=metric)
    winner = _measured(ranked[0], folder)
    if settings.searching.average_runs:
        kept = [_measured(one, folder) for one in ranked[: settings.searching.keep_runs]]
        unlike = [run for run in kept if Path(run.model).is_dir()]
        winner = average_best(unlike, folder / AVERAGE, measure, log=output.log) or winner
    models = _on_unseen_queries(settings, winner, ranked, folder, measure, log=output.log)
    given = train_settings(settings)
    given = replace(given, run=replace(given.run, selection=fixed.run.selection))
    recipe = settings_of_trial(given, ranked[0].values, layers=layers)
    report = Report(
        metric=metric,
        trials=tuple(study.results()),
        models=models,
        spent=study.spent(),
        budget=duration_of(settings.searching.budget),
        measured_times=study.count_measurement(),
        queries={name: len(set(getattr(split, name).queries)) for name in ("train", "validation", "unseen")},
    )
    write_report(report, recipe, folder, output)
    return report


def _measured(one: Result, folder: Path) -> Measured:
    assert one.value is not None  # the trial is complete
    return Measured(f"trial {one.number}", str(folder / "trials" / f"{one.number:04d}"), one.value)


def _on_unseen_queries(
    settings: SweepSettings,
    winner: Measured,
    ranked: Sequence[Result],
    folder: Path,
    measure: Measure,
    *,
    log: Callable[[str], None],
) -> tuple[Measured, ...]:
    """Return the winner, the first trial and the base model, measured on the unseen queries."""
    first = min(ranked, key=lambda one: one.number)
    base = settings.model.model_name_or_path
    compared = [winner]
    start = _measured(first, folder)
    if start.model != winner.model and Path(start.model).is_dir():
        compared.append(replace(start, name=f"{start.name} ({first.start})" if first.start else start.name))
    compared.append(Measured("before training", base, measure(base, "validation")))
    try:
        return tuple(replace(one, unseen=measure(one.model, "unseen")) for one in compared)
    except EvaluationError as error:
        log(f"warning: the unseen queries cannot be used: {error}")
        return tuple(compared)
