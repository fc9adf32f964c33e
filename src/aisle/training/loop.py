"""The training loop: exact gradients whatever the accumulation and the number of processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from aisle.errors import TrainingError
from aisle.training.batches import BatchPlan, PairBatch
from aisle.training.checkpoint import save_checkpoint, trained_names
from aisle.training.machine import peak_memory_bytes
from aisle.training.state import Throughput, TrainState

Objective = Callable[[torch.Tensor, PairBatch], torch.Tensor]
"""Losses of a batch's pairs, (pairs,), from the embeddings of its distinct texts, (texts, dim)."""


@dataclass(frozen=True)
class Schedule:
    """When a run ends, evaluates, logs and saves, in optimiser steps.

    Args:
        total_steps: steps in all.
        eval_steps: evaluate every so many steps as well as after each epoch.
        logging_steps: log every so many steps.
        checkpointing_steps: write a checkpoint every so many steps, or after each epoch.
        max_grad_norm: longer gradients are cut to it; None is off.
    """

    total_steps: int
    eval_steps: int | None
    logging_steps: int
    checkpointing_steps: int | Literal["epoch"] | None
    max_grad_norm: float | None


@dataclass
class Trainer:
    """Everything a run needs, prepared by the accelerator.

    Args:
        accelerator: devices, precision, gradients across processes, saving.
        model: the prepared embedder.
        optimizer: prepared.
        scheduler: steps once per optimiser step on every process; not prepared.
        plan: which pairs meet in which step.
        schedule: when to evaluate, log and save.
        collate: the batch of these pair numbers.
        objective: losses of a batch.
        evaluate: metrics of the model as it is; called on all processes.
        selection_metric: the metric whose highest value is best; None keeps the latest.
        on_log: told of training as it goes, on the main process.
        on_evaluation: told of each evaluation, on the main process.
        checkpoints_dir: where checkpoints go.
        identity: what must be the same for a run to go on from its checkpoints.
        state: where the run is.
        best_weights: trained weights of the best evaluation; on the main process only.
    """

    accelerator: Any
    model: torch.nn.Module
    optimizer: Any
    scheduler: Any
    plan: BatchPlan
    schedule: Schedule
    collate: Callable[[np.ndarray], PairBatch]
    objective: Objective
    evaluate: Callable[[], dict[str, Any]]
    selection_metric: str | None
    on_log: Callable[[dict[str, Any]], None]
    on_evaluation: Callable[[dict[str, Any]], None]
    checkpoints_dir: Path
    identity: dict[str, Any]
    state: TrainState
    best_weights: dict[str, torch.Tensor] | None = None

    def run(self) -> None:
        """Train from where the state is to the end.

        Raises:
            TrainingError: the loss is no number any more.
            CheckpointError: a checkpoint could not be written.
        """
        self.model.train()
        window, losses = Throughput(), list[float]()
        for epoch, step_rows, epoch_ends in self._remaining_steps():
            started = time.perf_counter()
            loss, gradient_norm, counts = self._step(step_rows)
            seconds = time.perf_counter() - started
            window.add(seconds=seconds, **counts)
            self.state.total.add(seconds=seconds, **counts)
            self.state.step += 1
            step = self.state.step
            last = step == self.schedule.total_steps
            losses.append(loss)
            if step % self.schedule.logging_steps == 0 or last:
                self._log(epoch, sum(losses) / len(losses), gradient_norm, window)
                window, losses = Throughput(), []
            every = self.schedule.eval_steps
            if epoch_ends or last or (every is not None and step % every == 0):
                self._evaluate(epoch)
            if self._checkpoint_is_due(epoch_ends):
                self._save_checkpoint()

    def _remaining_steps(self) -> Iterator[tuple[int, list[np.ndarray], bool]]:
        while self.state.step < self.schedule.total_steps:
            epoch, first_step = divmod(self.state.step, self.plan.steps_per_epoch)
            for at, rows in enumerate(self.plan.steps(epoch, first_step=first_step), start=first_step + 1):
                yield epoch, rows, at == self.plan.steps_per_epoch
                if self.state.step == self.schedule.total_steps:
                    return

    def _step(self, batches: Sequence[np.ndarray]) -> tuple[float, float, dict[str, int]]:
        """Take one optimiser step; its gradient is that of the mean loss over all pairs of all batches."""
        pairs = sum(len(rows) for rows in batches)
        # Distributed wrappers average gradients over the processes; times their number it is a sum.
        scale = self.accelerator.num_processes / pairs
        total = torch.zeros((), device=self.accelerator.device)
        counts = {"pairs": 0, "real_tokens": 0, "padded_tokens": 0}
        for number, rows in enumerate(batches, start=1):
            batch, weight = self._local_batch(rows)
            if number < len(batches):
                with self.accelerator.no_sync(self.model):
                    total += self._backward(batch, weight * scale)
            else:
                total += self._backward(batch, weight * scale)
            counts["pairs"] += len(batch) * weight
            counts["real_tokens"] += batch.real_tokens
            counts["padded_tokens"] += batch.padded_tokens
        # One gathering of a few numbers a step tells every process the same loss and the work of all.
        work = torch.tensor([*counts.values()], dtype=torch.float64, device=self.accelerator.device)
        summed = self.accelerator.reduce(torch.cat([total.double().reshape(1), work]), reduction="sum")
        loss = float(summed[0]) / self.accelerator.num_processes
        if not math.isfinite(loss):
            raise TrainingError(
                f"step {self.state.step + 1}: the loss is {loss}; lower --learning_rate, add "
                "--num_warmup_steps, or train with --mixed_precision bf16 in place of fp16"
            )
        norm = self._clip()
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.scheduler.step()
        self.optimizer.zero_grad()
        return loss, norm, {name: int(summed[at]) for at, name in enumerate(counts, start=1)}

    def _local_batch(self, rows: np.ndarray) -> tuple[PairBatch, int]:
        """Return this process's part of a global batch and 1, or any pair and 0 where no part is left."""
        mine = self.plan.share(rows, self.accelerator.process_index)
        weight = 1 if len(mine) else 0
        return self.collate(mine if weight else rows[:1]).to(self.accelerator.device), weight

    def _backward(self, batch: PairBatch, scale: float) -> torch.Tensor:
        with self.accelerator.autocast():
            embeddings = self.model(batch.token_batches)
        loss = self.objective(embeddings.float(), batch).sum() * scale
        self.accelerator.backward(loss)
        return loss.detach()

    def _clip(self) -> float:
        limit = self.schedule.max_grad_norm
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return float(self.accelerator.clip_grad_norm_(trained, math.inf if limit is None else limit))

    def _log(self, epoch: int, loss: float, gradient_norm: float, window: Throughput) -> None:
        if self.accelerator.is_main_process:
            self.on_log(
                {
                    "step": self.state.step,
                    "epoch": epoch + 1,
                    "loss": loss,
                    "learning_rate": self.scheduler.get_last_lr()[0],
                    "gradient_norm": gradient_norm,
                    "peak_memory_bytes": peak_memory_bytes(self.accelerator.device),
                    **window.rates(),
                }
            )

    def _evaluate(self, epoch: int) -> None:
        entry = {"step": self.state.step, "epoch": epoch + 1, **self.evaluate()}
        if self.state.record(entry, metric=self.selection_metric):
            self.best_weights = self._trained_weights()
        if self.accelerator.is_main_process:
            self.on_evaluation(entry)

    def _trained_weights(self) -> dict[str, torch.Tensor] | None:
        state = self.accelerator.get_state_dict(self.model)
        if not self.accelerator.is_main_process:
            return None
        trained = trained_names(self.accelerator.unwrap_model(self.model))
        return {name: state[name].detach().cpu().clone().contiguous() for name in sorted(trained)}

    def _checkpoint_is_due(self, epoch_ends: bool) -> bool:
        every = self.schedule.checkpointing_steps
        if every is None:
            return False
        return epoch_ends if every == "epoch" else self.state.step % every == 0

    def _save_checkpoint(self) -> None:
        save_checkpoint(
            self.accelerator,
            self.checkpoints_dir,
            step=self.state.step,
            identity=self.identity,
            best_weights=self.best_weights,
        )
