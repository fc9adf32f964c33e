"""The training loop: exact gradients whatever the accumulation, sub-batches and number of processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from aisle.errors import TrainingError, TrainingStopped
from aisle.models.weight_names import without_wrappers
from aisle.training.batches import BatchPlan, PairBatch
from aisle.training.checkpoint import prune_checkpoints, save_checkpoint
from aisle.training.distributed import sum_over_ranks
from aisle.training.gradients import GradientPass, RandomState
from aisle.training.out_of_memory import advising_on_memory, is_out_of_memory, retrying_with_less_memory
from aisle.training.peak_memory import peak_memory_bytes
from aisle.training.prefetch import prefetched
from aisle.training.schedule import Due, Schedule
from aisle.training.step_metrics import StepMetrics, metrics_to_sum
from aisle.training.stop_signals import GracefulStop
from aisle.training.train_state import TrainState
from aisle.training.trained_weights import trained_names

OPTIMISER_ADVICE = (
    "Its state is two numbers for every trained weight: train a LoRA adapter (--use_peft), or one of a lower "
    "--lora_rank or on fewer --lora_target_modules"
)


@dataclass
class Trainer:
    """Everything a run needs, prepared by the accelerator.

    Args:
        accelerator: devices, precision, gradients across processes, saving.
        passes: adds the gradient of a batch.
        optimizer: prepared.
        scheduler: steps once per optimiser step on every process; not prepared.
        plan: which pairs meet in which step.
        schedule: when to evaluate, log and save.
        collate: the batch of these pair numbers.
        evaluate: metrics of the model as it is; called on all processes.
        sample: embeddings of a few texts, (texts, dim) float32; called on all processes.
        selection_metric: the metric whose highest value is best; None keeps the latest.
        say: told of what the user should know, on the main process.
        on_log: told of training as it goes, on the main process.
        on_evaluation: told of each evaluation, on the main process.
        checkpoints_dir: where checkpoints go.
        identity: what must be the same for a run to go on from its checkpoints.
        state: where the run is.
        best_weights: trained weights of the best evaluation; on the main process only.
    """

    accelerator: Any
    passes: GradientPass
    optimizer: Any
    scheduler: Any
    plan: BatchPlan
    schedule: Schedule
    collate: Callable[[np.ndarray], PairBatch]
    evaluate: Callable[[], dict[str, Any]]
    sample: Callable[[], np.ndarray]
    selection_metric: str | None
    say: Callable[[str], None]
    on_log: Callable[[dict[str, Any]], None]
    on_evaluation: Callable[[dict[str, Any]], None]
    checkpoints_dir: Path
    identity: dict[str, Any]
    state: TrainState
    best_weights: dict[str, torch.Tensor] | None = None

    @property
    def model(self) -> torch.nn.Module:
        """The prepared embedder."""
        return self.passes.model

    @property
    def _figures_lag(self) -> bool:
        """Whether a device computes on while the program goes on."""
        return bool(self.accelerator.device.type != "cpu")

    def run(self) -> None:
        """Train from where the state is to the end.

        Raises:
            TrainingError: the loss is no number any more, or a single text does not fit in memory.
            TrainingStopped: the process was asked to stop; a checkpoint of its last step is there.
            CheckpointError: a checkpoint could not be written.
        """
        if self._out_of_patience():
            return
        self.model.train()
        if self.state.sub_batch_tokens is not None:
            self.passes.cached, self.passes.max_tokens = True, self.state.sub_batch_tokens
        on_gpu = self.accelerator.device.type == "cuda"

        def prepare(step: tuple[int, list[np.ndarray], bool]) -> list[PairBatch]:
            made = [self.collate(rows) for rows in step[1]]
            return [batch.pinned() for batch in made] if on_gpu else made

        batches = prefetched(self._remaining_steps(), prepare)
        with GracefulStop() as asked, closing(batches):
            started = time.perf_counter()
            before: tuple[int, torch.Tensor] | None = None  # the last step's figures, where not read yet
            for (epoch, rows, epoch_ends), step_batches in batches:
                figured = self._step(step_batches, stop=asked.requested is not None)
                self.state.step += 1
                after = self.state.step, figured
                due = self.schedule.due(self.state.step, epoch_ends=epoch_ends)
                # Reading figures waits for the device. Between two stops those of the step before will do.
                read_now = due.anything or not self._figures_lag
                unread = [before, after] if read_now else [before]
                figures = [StepMetrics.read(*one) for one in unread if one is not None]
                before = None if read_now else after
                self._count(figures, pairs=sum(map(len, rows)))
                stop = any(one.stop for one in figures)
                if stop and before is not None:
                    figures = [StepMetrics.read(*before)]
                    self._count(figures, pairs=0)
                if due.anything or stop:
                    self.state.window.seconds += time.perf_counter() - started
                    self._pause(epoch, due, stop=stop, gradient_norm=figures[-1].gradient_norm)
                    started = time.perf_counter()
                if stop:
                    raise TrainingStopped(f"{asked.requested or 'another process'}: stopped")
                if self.state.stopped_early:
                    return

    def _remaining_steps(self) -> Iterator[tuple[int, list[np.ndarray], bool]]:
        step = self.state.step
        while step < self.schedule.total_steps:
            epoch, first_step = divmod(step, self.plan.steps_per_epoch)
            for at, rows in enumerate(self.plan.steps(epoch, first_step=first_step), start=first_step + 1):
                yield epoch, rows, at == self.plan.steps_per_epoch
                step += 1
                if step == self.schedule.total_steps:
                    return

    def _step(self, batches: Sequence[PairBatch], *, stop: bool) -> torch.Tensor:
        """Take one optimiser step, by the gradient of the mean loss over its batches; return its figures."""
        device = self.accelerator.device
        moved = [batch.to(device) for batch in batches]
        scale = 1 / max(sum(batch.weight for batch in moved), 1)
        random_state = RandomState.now(device)

        def attempt() -> torch.Tensor:
            shares = [
                self.passes(batch, scale=scale, last=number == len(moved))
                for number, batch in enumerate(moved, start=1)
            ]
            return torch.stack(shares).sum()

        def shrink() -> None:
            self._halve_sub_batches(moved)
            random_state.restore()

        loss = retrying_with_less_memory(attempt, is_out_of_memory=is_out_of_memory, shrink=shrink)
        own = metrics_to_sum(
            loss,
            real_tokens=sum(batch.real_tokens for batch in moved),
            read_tokens=sum(batch.read_tokens for batch in moved),
            stop=stop,
        )
        summed = sum_over_ranks(self.accelerator, own)
        with advising_on_memory(f"step {self.state.step + 1}, the optimiser", OPTIMISER_ADVICE):
            self.passes.share_gradients()
            norm = self._clip()
            self.optimizer.step()
        self.passes.objective.keep_temperature()
        if not self.accelerator.optimizer_step_was_skipped:
            self.scheduler.step()
        self.optimizer.zero_grad()
        return torch.cat([summed, norm.float().reshape(1)])

    def _halve_sub_batches(self, batches: Sequence[PairBatch]) -> None:
        self.optimizer.zero_grad()
        largest = max(batches, key=lambda batch: batch.read_tokens)
        tokens = self.passes.halve(largest)
        if tokens is None:
            raise TrainingError(
                f"step {self.state.step + 1}: out of memory. Give --cached_embeddings with a lower "
                "--max_tokens_per_sub_batch, a lower --max_length or --gradient_checkpointing"
            )
        if self.state.sub_batch_tokens is None:
            self.say(
                f"out of memory: batches are encoded in sub-batches of {tokens:,} tokens from here on, or "
                "fewer if need be; the batch and its gradient stay the same"
            )
        self.state.sub_batch_tokens = tokens
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()

    def _count(self, figures: Sequence[StepMetrics], *, pairs: int) -> None:
        self.state.window.pairs += pairs
        for one in figures:
            self.state.window.add_step(
                loss=one.loss, real_tokens=one.real_tokens, read_tokens=one.read_tokens
            )
            self.state.note_loss(one.loss)

    def _clip(self) -> torch.Tensor:
        limit = self.schedule.max_grad_norm
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norm: Any = self.accelerator.clip_grad_norm_(trained, math.inf if limit is None else limit)
        return cast(torch.Tensor, norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _pause(self, epoch: int, due: Due, *, stop: bool, gradient_norm: float) -> None:
        """Log, evaluate and save what is due between two steps; a stop saves in any case."""
        if due.log:
            self._log(epoch, gradient_norm)
        if due.evaluation:
            self._evaluate(epoch)
        if due.checkpoint or stop:
            self._save_checkpoint()

    def _log(self, epoch: int, gradient_norm: float) -> None:
        window = self.state.close_window()
        if self.accelerator.is_main_process:
            self.on_log(
                {
                    "step": self.state.step,
                    "epoch": epoch + 1,
                    "loss": window.mean_loss,
                    "learning_rate": self.scheduler.get_last_lr()[0],
                    "gradient_norm": gradient_norm,
                    "temperature": self.passes.objective.temperature.item(),
                    "peak_memory_bytes": peak_memory_bytes(self.accelerator.device),
                    "steps": window.steps,
                    "seconds": window.seconds,
                    "pairs": window.pairs,
                    "real_tokens": window.real_tokens,
                    **window.rates(),
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
        """Note and return whether too many evaluations brought nothing better.

        A resumed run may be given more patience than it stopped early with.
        """
        patience, waited = self.schedule.early_stopping_patience, self.state.evaluations_without_gain
        self.state.stopped_early = patience is not None and waited >= patience
        if self.state.stopped_early:
            step = self.state.step
            self.say(f"stopping early after step {step:,}: no better evaluation in the last {waited}")
        return self.state.stopped_early

    def _trained_weights(self) -> dict[str, torch.Tensor] | None:
        state = without_wrappers(self.accelerator.get_state_dict(self.model))
        if not self.accelerator.is_main_process:
            return None
        trained = trained_names(self.accelerator.unwrap_model(self.model))
        return {name: state[name].detach().cpu().clone().contiguous() for name in sorted(trained)}

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
