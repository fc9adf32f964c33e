"""Train a model: read the data, load the base model, train, evaluate and save the run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aisle.commands.output import Output, figures, quieten_libraries
from aisle.commands.train.auto_choice import AutoChoice, choose
from aisle.commands.train.compiler_choice import with_compiler
from aisle.commands.train.data_settings import MEMORY, DataSettings
from aisle.commands.train.finished_run import FinishedRun
from aisle.commands.train.launch_command import started_as
from aisle.commands.train.loss_settings import AUTO, needs_teacher_scores
from aisle.commands.train.measured_blend import measure_blend
from aisle.commands.train.observer import Observer, follow
from aisle.commands.train.outcome import check_outcome, run_metrics, undefined_selection
from aisle.commands.train.precision_choice import CHOSEN, launched_precision, with_precision
from aisle.commands.train.read_data import TrainingData, read_training_data
from aisle.commands.train.reranker_choice import resolve_reranker_settings
from aisle.commands.train.reranker_settings import RerankerSettings
from aisle.commands.train.resolve_settings import resolve_settings
from aisle.commands.train.resume import how_to_resume, resume
from aisle.commands.train.row_sources import NO_MEMORY, MemoryRows
from aisle.commands.train.run_dir import (
    TrainingLog,
    check_run_dir,
    finish_run_dir,
    only_writer,
    start_run_dir,
)
from aisle.commands.train.run_identity import digest_of
from aisle.commands.train.save_run import save_run
from aisle.commands.train.settings import TrainSettings
from aisle.commands.train.trainer_setup import make_trainer
from aisle.config.load import saved_form
from aisle.errors import TrainingStopped
from aisle.models.cross_encoder_loading import LoadedCrossEncoder
from aisle.models.loading import LoadedModel
from aisle.models.matryoshka import matryoshka_record
from aisle.training.accelerator import gpu_computes_bf16, make_accelerator, set_seed, start_trackers
from aisle.training.cpu_threads import use_cpu_threads
from aisle.training.distributed import wait_for_all
from aisle.training.launch_support import is_sharded, refuse_missing_shards, refuse_unsupported_launch
from aisle.training.loop import Trainer
from aisle.training.stop_signals import GracefulStop

RESUME_ADVICE = (
    "checkpoints, if there are any, are whole: free some space, and resume with "
    "--resume_from_checkpoint latest"
)


def train(
    settings: TrainSettings,
    *,
    memory: MemoryRows = NO_MEMORY,
    from_python: bool = False,
    observer: Observer | None = None,
) -> FinishedRun:
    """Fine-tune an encoder and return the finished run; call on every process of a launch.

    Args:
        settings: Settings of the run.
        memory: Rows from memory in place of files.
        from_python: Whether a Python call started the run: nothing is printed on stdout, and messages name
            the call in place of a command line.
        observer: Follows the run in place of a person: nothing is printed.

    Raises:
        AisleError: The settings, the data, the model or the run's folder cannot be used, or training failed.
    """
    started = time.perf_counter()
    run_dir = Path(str(settings.run.output_dir))
    check_run_dir(run_dir, settings.run)
    refuse_unsupported_launch()
    asked = settings.optim.mixed_precision
    settings = with_precision(
        settings,
        launched=launched_precision(started_as()[0], os.environ),
        computes_bf16=gpu_computes_bf16(),
    )
    accelerator = make_accelerator(
        mixed_precision=settings.optim.mixed_precision,
        report_to=settings.run.report_to if settings.run.with_tracking else None,
        project_dir=run_dir,
    )
    refuse_missing_shards(accelerator)
    silent = not accelerator.is_main_process or observer is not None
    output = Output(json_only=settings.run.json, silent=silent, stderr=from_python)
    quieten_libraries()
    output.log(
        f"processes: {accelerator.num_processes}, distribution: {accelerator.distributed_type.value}, "
        f"device: {accelerator.device.type}, "
        f"precision: {accelerator.mixed_precision}"
    )
    if settings.optim.mixed_precision != asked:
        output.log(CHOSEN)
    if accelerator.device.type == "cpu":
        output.log(use_cpu_threads(settings.optim.threads, processes=accelerator.num_processes))

    settings = with_compiler(settings, log=output.log)
    taught = needs_teacher_scores(settings.objective)
    data = read_training_data(
        settings.data,
        seed=settings.optim.seed,
        token=settings.run.hub_token,
        log=output.log,
        memory=memory,
        teacher_scores=taught and settings.distillation.teacher is None,
        reads_labels=not taught,
    )
    settings = replace(settings, data=_with_digests(settings.data, data, memory))
    base: LoadedModel | LoadedCrossEncoder
    auto = choose(data.train) if settings.objective.loss == AUTO else None
    if isinstance(settings, RerankerSettings):
        settings, base = resolve_reranker_settings(settings, data, log=output.log)
    else:
        settings, base = resolve_settings(settings, data, auto=auto, log=output.log)
    with only_writer(run_dir) if accelerator.is_main_process else nullcontext():
        return _train(
            settings,
            data,
            base,
            accelerator,
            output,
            auto=auto,
            started=started,
            from_python=from_python,
            observer=observer,
        )


def _with_digests(settings: DataSettings, data: TrainingData, memory: MemoryRows) -> DataSettings:
    """Return the settings with digests in place of file names for pairs from memory."""
    if memory.train is not None:
        settings = replace(settings, train_file=(f"{MEMORY} pairs, {digest_of(data.train)}",))
    if memory.validation is not None:
        settings = replace(settings, validation_file=(f"{MEMORY} pairs, {digest_of(data.validation)}",))
    return settings


def _train(
    settings: TrainSettings,
    data: TrainingData,
    base: LoadedModel | LoadedCrossEncoder,
    accelerator: Any,
    output: Output,
    *,
    auto: AutoChoice | None,
    started: float,
    from_python: bool,
    observer: Observer | None,
) -> FinishedRun:
    run_dir = Path(str(settings.run.output_dir))
    trainer = make_trainer(settings, data, base, accelerator, log=output.log, progress=output.progress)
    trainer.on_evaluation = lambda entry: _report_evaluation(entry, trainer, output)
    set_seed(settings.optim.seed, device_specific=True)
    resumed = resume(settings, run_dir, trainer, log=output.log)
    if accelerator.is_main_process:
        start_run_dir(run_dir, settings)
    if settings.run.with_tracking:
        start_trackers(accelerator, saved_form(settings))
    if not resumed:
        trainer.state.base = trainer.evaluate_base()
        trainer.state.base_sample = trainer.sample().tolist()
        headless = ", without the head" if settings.head.head != "none" else ""
        _report_evaluation(
            {"step": 0, **trainer.state.base}, trainer, output, when=f"before training{headless}"
        )
    undefined = undefined_selection(trainer.selection_metric, trainer.state.base or {}, settings.reads)
    if undefined is not None:
        output.log(undefined)
    with output.progress("training", trainer.schedule.total_steps) as bar:
        bar.advance(trainer.state.step)
        if accelerator.is_main_process:
            log = TrainingLog(run_dir, step=trainer.state.step)
            trainer.on_log = _logger(trainer, output, bar.advance, log)
            follow(trainer, observer)
        try:
            trainer.run()
        except TrainingStopped as stopped:
            how = how_to_resume(trainer, str(stopped), from_python=from_python)
            # A run with an observer is part of something larger, which has its own way to go on.
            raise TrainingStopped(how if observer is None else str(stopped)) from None
    with GracefulStop():  # the rest is short: after a stop signal, the run is still finished
        warnings = check_outcome(settings, trainer)
        metrics = run_metrics(settings, data, trainer, auto=auto, seconds=time.perf_counter() - started)
        whole_model_sharded = is_sharded(accelerator) and not settings.lora.use_peft
        frozen = trainer.frozen_weights() if whole_model_sharded else {}
        if accelerator.is_main_process:
            save_run(
                run_dir,
                accelerator.unwrap_model(trainer.model),
                settings,
                base,
                weights=trainer.best_weights,
                frozen=frozen,
                lineage={
                    **({} if base.adapter is None else {"began_at": base.adapter.record()}),
                    **matryoshka_record(settings.objective.matryoshka_dims),
                },
                advice=RESUME_ADVICE,
            )
            if isinstance(settings, RerankerSettings):
                blend = measure_blend(run_dir, settings, data.validation, log=output.log)
                metrics["reranking"] = blend and {**asdict(blend), "kept": blend.kept}
            finish_run_dir(run_dir, settings, metrics)
        wait_for_all(accelerator)
    accelerator.end_training()
    best = trainer.state.best or {}
    why = "the last" if trainer.selection_metric is None else f"best by {trainer.selection_metric}"
    output.log(f"kept the weights of step {best.get('step')}, {why}: {figures(best)}")
    for warning in warnings:
        output.log(f"warning: {warning}")
    output.log(f"saved to {run_dir}")
    return FinishedRun(run_dir, metrics, main_process=accelerator.is_main_process)


def _logger(
    trainer: Trainer, output: Output, advance: Callable[[int, str], None], log: TrainingLog
) -> Callable[[dict[str, Any]], None]:
    logged = trainer.state.step

    def on_log(values: dict[str, Any]) -> None:
        nonlocal logged
        advance(
            values["step"] - logged,
            f"loss {values['loss']:.4f} · lr {values['learning_rate']:.1e} · "
            f"gradient {values['gradient_norm']:.2f} · {values['pairs_per_second']:.0f} pairs/s · "
            f"{values['tokens_per_second']:.0f} tokens/s · {values['padding_share']:.0%} padding · "
            f"{values['peak_memory_bytes'] / 2**30:.1f} GiB",
        )
        logged = values["step"]
        log.add(values)
        trainer.accelerator.log({f"train/{name}": value for name, value in values.items()}, step=logged)

    return on_log


def _report_evaluation(
    entry: dict[str, Any], trainer: Trainer, output: Output, *, when: str | None = None
) -> None:
    step, steps = entry["step"], trainer.schedule.total_steps
    output.log(f"{when or f'step {step:,} of {steps:,}'}: {figures(entry)}")
    numbers = {name: value for name, value in entry.items() if isinstance(value, int | float)}
    trainer.accelerator.log({f"eval/{name}": value for name, value in numbers.items()}, step=entry["step"])


def train_and_push(
    settings: TrainSettings, *, memory: MemoryRows = NO_MEMORY, from_python: bool = False
) -> FinishedRun:
    """Train, upload the run with --push_to_hub, and print the JSON document with --json; see `train`.

    Raises:
        AisleError: As in `train`; if only the upload failed (HubError), the run on disk is complete.
    """
    finished = train(settings, memory=memory, from_python=from_python)
    if not finished.main_process:
        return finished
    output = Output(json_only=settings.run.json, stderr=from_python)
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
        output.log(f"uploaded to {url}")
    output.document({"run_dir": str(finished.run_dir), "url": url, "metrics": finished.metrics})
    return finished
