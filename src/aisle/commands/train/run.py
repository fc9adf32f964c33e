"""Training, from settings to a finished run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aisle.commands.output import Output, figures, quieten_libraries
from aisle.commands.train.compiler_choice import with_compiler
from aisle.commands.train.lora_choice import resolve_lora
from aisle.commands.train.loss_choice import loss_hint, resolve_loss, resolve_selection, unused_settings
from aisle.commands.train.outcome import check_outcome, run_metrics, undefined_selection
from aisle.commands.train.read_data import TrainingData, read_training_data
from aisle.commands.train.resume import how_to_resume, resume
from aisle.commands.train.run_dir import (
    TrainingLog,
    check_run_dir,
    finish_run_dir,
    only_writer,
    start_run_dir,
)
from aisle.commands.train.settings import ModelSettings, TrainSettings, problems_of
from aisle.commands.train.trainer_setup import make_trainer
from aisle.config.load import saved_form
from aisle.errors import ConfigError, TrainingStopped
from aisle.models.loading import LoadedModel, Overrides, read_settings_file
from aisle.models.model_source import find_model
from aisle.models.persistence import save_encoder
from aisle.models.starting_point import load_starting_point
from aisle.training.accelerator import make_accelerator, set_seed, start_trackers
from aisle.training.cpu_threads import use_cpu_threads
from aisle.training.distributed import wait_for_all
from aisle.training.launch_support import refuse_missing_shards, refuse_unsupported_launch
from aisle.training.loop import Trainer
from aisle.training.stop_signals import GracefulStop

DEFAULT_MAX_LENGTH = 128
LORA_LEARNING_RATE = 5e-4
FULL_LEARNING_RATE = 2e-5


@dataclass(frozen=True)
class FinishedRun:
    """What a run left behind."""

    run_dir: Path
    metrics: Mapping[str, Any]
    main_process: bool


def train(settings: TrainSettings) -> FinishedRun:
    """Fine-tune an encoder and return the finished run; call on every process of a launch.

    Raises:
        AisleError: the settings, the data, the model or the run's folder cannot be used, or training failed.
    """
    _refuse_problems(settings)
    started = time.perf_counter()
    run_dir = Path(str(settings.run.output_dir))
    check_run_dir(run_dir, settings.run)
    refuse_unsupported_launch()
    accelerator = make_accelerator(
        mixed_precision=settings.optim.mixed_precision,
        report_to=settings.run.report_to if settings.run.with_tracking else None,
        project_dir=run_dir,
    )
    refuse_missing_shards(accelerator)
    output = Output(json_only=settings.run.json, silent=not accelerator.is_main_process)
    quieten_libraries()
    output.say(
        f"processes: {accelerator.num_processes}, distribution: {accelerator.distributed_type.value}, "
        f"device: {accelerator.device.type}, "
        f"precision: {accelerator.mixed_precision}"
    )
    if accelerator.device.type == "cpu":
        output.say(use_cpu_threads(settings.optim.threads, processes=accelerator.num_processes))

    settings = with_compiler(settings, say=output.say)
    data = read_training_data(
        settings.data, seed=settings.optim.seed, token=settings.run.hub_token, say=output.say
    )
    settings, base = _resolve(settings, data, output)
    with only_writer(run_dir) if accelerator.is_main_process else nullcontext():
        return _train(settings, data, base, accelerator, output, started=started)


def _train(
    settings: TrainSettings,
    data: TrainingData,
    base: LoadedModel,
    accelerator: Any,
    output: Output,
    *,
    started: float,
) -> FinishedRun:
    run_dir = Path(str(settings.run.output_dir))
    trainer = make_trainer(settings, data, base, accelerator, say=output.say)
    trainer.on_evaluation = lambda entry: _tell_evaluation(entry, trainer, output)
    set_seed(settings.optim.seed, device_specific=True)
    resumed = resume(settings, run_dir, trainer, say=output.say)
    if accelerator.is_main_process:
        start_run_dir(run_dir, settings)
    if settings.run.with_tracking:
        start_trackers(accelerator, saved_form(settings))
    if not resumed:
        trainer.state.base = trainer.evaluate()
        trainer.state.base_sample = trainer.sample().tolist()
        _tell_evaluation({"step": 0, **trainer.state.base}, trainer, output)
    undefined = undefined_selection(trainer.selection_metric, trainer.state.base or {})
    if undefined is not None:
        output.say(undefined)
    with output.progress("training", trainer.schedule.total_steps) as bar:
        bar.advance(trainer.state.step)
        if accelerator.is_main_process:
            log = TrainingLog(run_dir, step=trainer.state.step)
            trainer.on_log = _logger(trainer, output, bar.advance, log)
        try:
            trainer.run()
        except TrainingStopped as stopped:
            raise TrainingStopped(how_to_resume(trainer, str(stopped))) from None
    with GracefulStop():  # the rest is short: a run that is asked to stop now is finished, not lost
        warnings = check_outcome(settings, trainer)
        metrics = run_metrics(settings, data, trainer, seconds=time.perf_counter() - started)
        if accelerator.is_main_process:
            save_encoder(
                run_dir,
                embedder=accelerator.unwrap_model(trainer.model),
                weights=trainer.best_weights,
                tokenizer=base.tokenizer,
                settings=base.settings,
                source=base.source,
                adapter=settings.lora.use_peft,
                began_at=None if base.adapter is None else base.adapter.record(),
            )
            finish_run_dir(run_dir, settings, metrics)
        wait_for_all(accelerator)
    accelerator.end_training()
    best = trainer.state.best or {}
    why = "the last" if trainer.selection_metric is None else f"best by {trainer.selection_metric}"
    output.say(f"kept the weights of step {best.get('step')}, {why}: {figures(best)}")
    for warning in warnings:
        output.say(f"warning: {warning}")
    output.say(f"saved to {run_dir}")
    return FinishedRun(run_dir, metrics, main_process=accelerator.is_main_process)


def _resolve(
    settings: TrainSettings, data: TrainingData, output: Output
) -> tuple[TrainSettings, LoadedModel]:
    """Return the settings with nothing left open, and the base model."""
    model, optim = settings.model, settings.optim
    source = find_model(model.model_name_or_path, revision=model.model_revision, token=settings.run.hub_token)
    run_dir = Path(str(settings.run.output_dir))
    if run_dir.resolve() == source.path.resolve():
        raise ConfigError(
            f"--output_dir {run_dir}: is the model that training begins at; give another folder"
        )
    base = load_starting_point(
        source,
        overrides=_overrides(model),
        train_adapter=settings.lora.use_peft,
        token=settings.run.hub_token,
        trust_remote_code=model.trust_remote_code,
    )
    if base.note is not None:
        output.say(base.note)
    if model.max_length is None and read_settings_file(source.path) is None:
        shorter = min(base.settings.max_length, DEFAULT_MAX_LENGTH)
        base = replace(base, settings=replace(base.settings, max_length=shorter))
    loss = resolve_loss(settings.objective.loss, data.train)
    default_rate = LORA_LEARNING_RATE if settings.lora.use_peft else FULL_LEARNING_RATE
    resolved = replace(
        settings,
        model=replace(
            model,
            pooling=base.settings.pooling,
            query_prompt=base.settings.query_prompt,
            product_prompt=base.settings.product_prompt,
            max_length=base.settings.max_length,
        ),
        lora=resolve_lora(settings.lora, base.adapter, say=output.say),
        objective=replace(settings.objective, loss=loss.name),
        optim=replace(
            optim,
            learning_rate=optim.learning_rate or default_rate,
            group_by_query=optim.group_by_query or loss.keeps_queries_together,
        ),
        run=replace(settings.run, selection=resolve_selection(settings.run.selection, data.validation)),
    )
    if resolved.optim.group_by_query and not optim.group_by_query:
        output.say(
            f"--group_by_query: taken, as the {loss.name} loss ranks a query's products within a batch"
        )
    _refuse_problems(resolved)
    unused = unused_settings(resolved.objective, resolved.optim, data.train)
    for note in (loss_hint(loss, data.train), *unused):
        if note is not None:
            output.say(note)
    output.say(
        f"model: {source.name}, {base.settings.pooling} pooling, at most {base.settings.max_length} tokens, "
        f"prompts {base.settings.query_prompt!r} and {base.settings.product_prompt!r}; loss: {loss.name}"
    )
    return resolved, base


def _refuse_problems(settings: TrainSettings) -> None:
    problems = problems_of(settings)
    if problems:
        raise ConfigError("\n".join(problems))


def _overrides(model: ModelSettings) -> Overrides:
    return Overrides(
        pooling=model.pooling,
        query_prompt=model.query_prompt,
        product_prompt=model.product_prompt,
        max_length=model.max_length,
    )


def _logger(
    trainer: Trainer, output: Output, advance: Callable[[int, str], None], log: TrainingLog
) -> Callable[[dict[str, Any]], None]:
    told = trainer.state.step

    def on_log(values: dict[str, Any]) -> None:
        nonlocal told
        advance(
            values["step"] - told,
            f"loss {values['loss']:.4f} · lr {values['learning_rate']:.1e} · "
            f"gradient {values['gradient_norm']:.2f} · {values['pairs_per_second']:.0f} pairs/s · "
            f"{values['tokens_per_second']:.0f} tokens/s · {values['padding_share']:.0%} padding · "
            f"{values['peak_memory_bytes'] / 2**30:.1f} GiB",
        )
        told = values["step"]
        log.add(values)
        trainer.accelerator.log({f"train/{name}": value for name, value in values.items()}, step=told)

    return on_log


def _tell_evaluation(entry: dict[str, Any], trainer: Trainer, output: Output) -> None:
    step, steps = entry["step"], trainer.schedule.total_steps
    when = f"step {step:,} of {steps:,}" if step else "before training"
    output.say(f"{when}: {figures(entry)}")
    numbers = {name: value for name, value in entry.items() if isinstance(value, int | float)}
    trainer.accelerator.log({f"eval/{name}": value for name, value in numbers.items()}, step=entry["step"])


def train_and_push(settings: TrainSettings) -> FinishedRun:
    """Train, upload the run if that is asked for, and print the JSON document if that is.

    Raises:
        AisleError: as in `train`; a failed upload (HubError) leaves the run whole on disk.
    """
    finished = train(settings)
    if not finished.main_process:
        return finished
    output = Output(json_only=settings.run.json)
    url = None
    if settings.run.push_to_hub:
        from aisle.hub import push_run

        url = push_run(
            finished.run_dir,
            repo_id=settings.run.hub_model_id,
            token=settings.run.hub_token,
            private=settings.run.hub_private,
            overwrite_card=settings.run.hub_overwrite_card,
        )
        output.say(f"uploaded to {url}")
    output.document({"run_dir": str(finished.run_dir), "url": url, "metrics": finished.metrics})
    return finished
