"""The training loop: epochs, logging, evaluation, checkpoints, early stopping and stop requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aisle.errors import TrainingStopped
from aisle.models.tower import Tower
from aisle.models.weight_names import without_wrappers
from aisle.system.prefetch import prefetched
from aisle.training.batch_plan import BatchPlan
from aisle.training.batches import PairBatch
from aisle.training.checkpoint import prune_checkpoints, save_checkpoint
from aisle.training.peak_memory import peak_memory_bytes
from aisle.training.schedule import Due, Schedule
from aisle.training.step import TrainingStep
from aisle.training.step_metrics import StepMetrics, StepMetricsReader
from aisle.training.stop_signals import GracefulStop
from aisle.training.train_state import TrainState
from aisle.training.trained_weights import trained_names


@dataclass(frozen=True)
class PlannedStep:
    """The pairs of a step.

    Args:
        epoch: Number of the epoch, from 0.
        rows: Pair numbers of each global batch.
        epoch_ends: Whether the step is the last of its epoch.
    """

    epoch: int
    rows: list[np.ndarray]
    epoch_ends: bool


@dataclass
class Trainer:
    """A training run, with everything prepared by the accelerator.

    Args:
        accelerator: The run's `Accelerator`: devices, precision, saving.
        step: Training step: updates the weights from a list of batches.
        plan: Pairs of each step.
        schedule: Steps after which to evaluate, log and save.
        collate: Function that makes a batch from pair numbers.
        evaluate: Function that returns the metrics of the current model; called on all ranks.
        sample: Function that returns embeddings of a few texts, (texts, dim) float32; called on all ranks.
        selection_metric: Metric that selects the best evaluation, higher is better; None keeps the latest.
        log: Function called with a message for the user, on the main rank.
        on_log: Function called with the metrics of the steps since the last log, on the main rank.
        on_evaluation: Function called with each evaluation, on the main rank.
        checkpoints_dir: Folder of the checkpoints.
        identity: Model, data and batch settings that a run must share to resume from its checkpoints.
        state: Training state: step, evaluations, throughput.
        padded_because: Why texts are padded; None if they are packed.
        best_weights: Trained weights of the best evaluation, on the main rank only.
    """

    accelerator: Any
    step: TrainingStep
    plan: BatchPlan
    schedule: Schedule
    collate: Callable[[np.ndarray], PairBatch]
    evaluate: Callable[[], dict[str, Any]]
    sample: Callable[[], np.ndarray]
    selection_metric: str | None
    log: Callable[[str], None]
    on_log: Callable[[dict[str, Any]], None]
    on_evaluation: Callable[[dict[str, Any]], None]
    checkpoints_dir: Path
    identity: dict[str, Any]
    state: TrainState
    padded_because: str | None = None
    best_weights: dict[str, torch.Tensor] | None = None

    @property
    def model(self) -> torch.nn.Module:
        """The prepared towers."""
        return self.step.forward.model

    def run(self) -> None:
        """Train from the current state to the end.

        Raises:
            TrainingError: The loss is not a finite number, or a single text does not fit in memory.
            TrainingStopped: A process received a signal to stop; a checkpoint of the last step is on disk.
            CheckpointError: A checkpoint cannot be written.
        """
        if self._out_of_patience():
            return
        self.model.train()
        reader = StepMetricsReader(late=self._metrics_are_late)
        with GracefulStop() as signals, closing(self._prefetched_steps()) as steps:
            started = time.perf_counter()
            for planned, batches in steps:
                number = self.state.step + 1
                reader.add(number, self.step(batches, number=number, stop=signals.requested is not None))
                self.state.step = number
                due = self.schedule.due(number, epoch=planned.epoch, epoch_ends=planned.epoch_ends)
                metrics = reader.read(wait=due.anything)
                stop = any(one.stop for one in metrics)
                if stop:
                    metrics += reader.read(wait=True)
                self._count(metrics, pairs=sum(map(len, planned.rows)))
                if due.anything or stop:
                    self.state.window.seconds += time.perf_counter() - started
                    self._pause(planned.epoch, due, stop=stop, gradient_norm=metrics[-1].gradient_norm)
                    started = time.perf_counter()
                if stop:
                    raise TrainingStopped(f"{signals.requested or 'another process'}: stopped")
                if self.state.stopped_early:
                    return

    @property
    def _metrics_are_late(self) -> bool:
        """Whether to read metrics a step late, because the device computes asynchronously."""
        return bool(self.accelerator.device.type != "cpu")

    def _prefetched_steps(self) -> Generator[tuple[PlannedStep, list[PairBatch]], None, None]:
        """Yield the remaining steps with their batches; each is prepared during the previous step."""
        pin = self.accelerator.device.type == "cuda"

        def batches_of(planned: PlannedStep) -> list[PairBatch]:
            batches = [self.collate(rows) for rows in planned.rows]
            return [batch.pinned() for batch in batches] if pin else batches

        return prefetched(self._remaining_steps(), batches_of)

    def _remaining_steps(self) -> Generator[PlannedStep, None, None]:
        step = self.state.step
        while step < self.schedule.total_steps:
            epoch, first_step = divmod(step, self.plan.steps_per_epoch)
            for at, rows in enumerate(self.plan.steps(epoch, first_step=first_step), start=first_step + 1):
                yield PlannedStep(epoch, rows, epoch_ends=at == self.plan.steps_per_epoch)
                step += 1
                if step == self.schedule.total_steps:
                    return

    def _count(self, metrics: Sequence[StepMetrics], *, pairs: int) -> None:
        self.state.window.pairs += pairs
        for one in metrics:
            self.state.window.add_step(
                loss=one.loss,
                real_tokens=one.real_tokens,
                read_tokens=one.read_tokens,
                figures=one.figures,
            )
            self.state.note_loss(one.loss)

    def _pause(self, epoch: int, due: Due, *, stop: bool, gradient_norm: float) -> None:
        """Log, evaluate and save between two steps if they are due; a stop request always saves."""
        if due.log:
            self._log_metrics(epoch, gradient_norm)
        if due.evaluation:
            self._evaluate(epoch)
        if due.checkpoint or stop:
            self._save_checkpoint()

    def _log_metrics(self, epoch: int, gradient_norm: float) -> None:
        window = self.state.close_window()
        if self.accelerator.is_main_process:
            self.on_log(
                {
                    "step": self.state.step,
                    "epoch": epoch + 1,
                    "loss": window.mean_loss,
                    "learning_rate": self.step.scheduler.get_last_lr()[0],
                    "gradient_norm": gradient_norm,
                    "temperature": self.step.objective.temperature.item(),
                    "peak_memory_bytes": peak_memory_bytes(self.accelerator.device),
                    "steps": window.steps,
                    "seconds": window.seconds,
                    "pairs": window.pairs,
                    "real_tokens": window.real_tokens,
                    **window.rates(),
                    **window.batch_metrics(),
                }
            )

    def _evaluate(self, epoch: int) -> None:
        entry = {"step": self.state.step, "epoch": epoch + 1, **self.evaluate()}
        if self.state.record(entry, metric=self.selection_metric):
            self.best_weights = self._trained_weights()
        if self.accelerator.is_main_process:
            self.on_evaluation(entry)
        self._out_of_patience()

    def _out_of_patience(self) -> bool:
        """Record and return whether too many evaluations in a row brought no improvement.

        A run that stopped early continues if it is resumed with more patience.
        """
        patience, waited = self.schedule.early_stopping_patience, self.state.evaluations_without_gain
        self.state.stopped_early = patience is not None and waited >= patience
        if self.state.stopped_early:
            step = self.state.step
            self.log(f"stopping early after step {step:,}: no better evaluation in the last {waited}")
        return self.state.stopped_early

    def _trained_weights(self) -> dict[str, torch.Tensor] | None:
        state = without_wrappers(self.accelerator.get_state_dict(self.model))
        if not self.accelerator.is_main_process:
            return None
        trained = trained_names(self.accelerator.unwrap_model(self.model))
        return {name: state[name].detach().cpu().clone().contiguous() for name in sorted(trained)}

    def evaluate_base(self) -> dict[str, Any]:
        """Return the metrics of the base model, before the first step: those without added heads."""
        with ExitStack() as stack:
            for module in self.step.forward.unwrapped.modules():
                if isinstance(module, Tower):
                    stack.enter_context(module.without_added_heads())
            return self.evaluate()

    def frozen_weights(self) -> dict[str, torch.Tensor]:
        """Return the frozen weights of a sharded model, on the main rank; call on all ranks."""
        state = without_wrappers(self.accelerator.get_state_dict(self.model))
        trained = trained_names(self.accelerator.unwrap_model(self.model))
        return {name: value for name, value in state.items() if name not in trained}

    def _save_checkpoint(self) -> None:
        save_checkpoint(
            self.accelerator,
            self.checkpoints_dir,
            step=self.state.step,
            identity=self.identity,
            best_weights=self.best_weights,
        )
        keep = self.schedule.checkpoints_to_keep
        if keep is not None and self.accelerator.is_main_process:
            prune_checkpoints(self.checkpoints_dir, keep=keep)
