"""A training step: embed, gather, loss, backward to embeddings, backward to weights, reduce, clip, optimise.

The loss needs the embeddings of the whole batch, over all ranks, and nothing else of the model. So its
gradient is first taken by the embeddings; then each rank carries its own rows back to the weights.
Between the `_alone` blocks, ranks exchange tensors (`distributed`). Other modules deal with scarce memory:
`grad_cache` embeds in sub-batches, `memory_retry` goes over to that, `rank_sync` makes all ranks retry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from aisle.training.batches import PairBatch
from aisle.training.distributed import gather_rows, sum_gradients, sum_over_ranks
from aisle.training.forward import Forward
from aisle.training.grad_cache import embed_in_sub_batches
from aisle.training.memory_retry import MemoryRetry
from aisle.training.objective import Objective
from aisle.training.out_of_memory import advising_on_memory
from aisle.training.rank_sync import RankSync
from aisle.training.step_metrics import metrics_to_sum

EXCHANGE_ADVICE = "Give --cached_embeddings, or a lower --max_tokens_per_sub_batch or --max_length"
OPTIMISER_ADVICE = (
    "Its state is two numbers for every trained weight: train a LoRA adapter (--use_peft), or one of a lower "
    "--lora_rank or on fewer --lora_target_modules"
)


@dataclass
class TrainingStep:
    """One step of the optimiser, by the gradient of the mean loss over all pairs of its batches.

    Args:
        accelerator: Accelerate's.
        forward: The model's forward and backward pass.
        objective: The loss.
        optimizer: The prepared optimiser.
        scheduler: Learning rate schedule; not prepared.
        max_grad_norm: Gradients longer than this are cut to it; None is off.
        retry: Computes the gradients again in smaller sub-batches if memory runs out.
        sync: Keeps ranks in step if one runs out of memory; the step sums the gradients then. None leaves the
            sum to the distributed wrapper.
    """

    accelerator: Any
    forward: Forward
    objective: Objective
    optimizer: Any
    scheduler: Any
    max_grad_norm: float | None
    retry: MemoryRetry
    sync: RankSync | None

    def __call__(self, batches: Sequence[PairBatch], *, number: int, stop: bool) -> torch.Tensor:
        """Take a step; return its metrics for `StepMetrics.read`, summed over the ranks.

        Args:
            batches: Batches whose gradients are accumulated.
            number: The step's number, for messages.
            stop: Whether this rank received a signal to stop.
        """
        moved = [batch.to(self.accelerator.device) for batch in batches]
        loss = self.retry(lambda sub_batch_tokens: self._add_gradients(moved, sub_batch_tokens), moved)
        real, read = sum(batch.real_tokens for batch in moved), sum(batch.read_tokens for batch in moved)
        own_metrics = metrics_to_sum(loss, real_tokens=real, read_tokens=read, stop=stop)
        metrics = sum_over_ranks(self.accelerator, own_metrics)
        with advising_on_memory(f"step {number}, the optimiser", OPTIMISER_ADVICE):
            self._reduce()
            norm = self._clip()
            self.optimizer.step()
        self.objective.keep_temperature()
        if not self.accelerator.optimizer_step_was_skipped:
            self.scheduler.step()
        self.optimizer.zero_grad()
        return torch.cat([metrics, norm.float().reshape(1)])

    def _add_gradients(self, batches: Sequence[PairBatch], sub_batch_tokens: int | None) -> torch.Tensor:
        """Add the gradient of the mean loss of all batches to the weights; return this rank's share of it."""
        scale = 1 / max(sum(batch.weight for batch in batches), 1)
        return torch.stack(
            [
                self._add_gradient(batch, scale, sub_batch_tokens, last=number == len(batches))
                for number, batch in enumerate(batches, start=1)
            ]
        ).sum()

    def _add_gradient(
        self, batch: PairBatch, scale: float, sub_batch_tokens: int | None, *, last: bool
    ) -> torch.Tensor:
        """Add the gradient of `scale` times a batch's loss; return this rank's share of that loss."""
        rank = self.accelerator.process_index
        start, own = sum(batch.texts[:rank]), batch.texts[rank]
        with self._alone():
            if sub_batch_tokens is None:
                embedded = self.forward.embed(batch, last=last)
            else:
                embedded = embed_in_sub_batches(self.forward, batch, sub_batch_tokens, last=last)
        with self._exchange():
            embeddings = gather_rows(self.accelerator, embedded.embeddings[:own], batch.texts)
        with self._alone():
            loss, gradient = backward_to_embeddings(self.objective, embeddings, batch, scale)
        with self._exchange():
            gradient = sum_over_ranks(self.accelerator, gradient)
        with self._alone():
            of_own = torch.zeros_like(embedded.embeddings)  # a rank without a text has embedded another's
            of_own[:own] = gradient[start : start + own]
            embedded.backward(of_own)
        return loss

    def _reduce(self) -> None:
        """Sum the gradients of the ranks, where the wrapper has not: it never sums the temperature's."""
        if self.sync is not None:
            sum_gradients(weight for weight in self.forward.model.parameters() if weight.requires_grad)
        if not self.objective.learns:
            return
        temperature = self.objective.log_temperature
        gradient = torch.zeros_like(temperature) if temperature.grad is None else temperature.grad
        gradient = sum_over_ranks(self.accelerator, gradient)
        if self.accelerator.scaler is not None:
            gradient = gradient * self.accelerator.scaler.get_scale()  # as the model's gradients are
        temperature.grad = gradient

    def _clip(self) -> torch.Tensor:
        """Cut the gradient to the longest norm; return the norm that it had."""
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        trained = [weight for weight in self.forward.model.parameters() if weight.requires_grad]
        norm: Any = self.accelerator.clip_grad_norm_(trained, limit)
        whole: torch.Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return whole

    def _alone(self) -> AbstractContextManager[None]:
        """Return the context of work without collectives: it succeeds on every rank, or is retried on all."""
        return nullcontext() if self.sync is None else self.sync.all_or_none()

    def _exchange(self) -> AbstractContextManager[None]:
        """Return the context of an exchange, where no rank can retry: the others are waiting in it."""
        if self.accelerator.num_processes == 1:
            return nullcontext()
        return advising_on_memory("the exchange of embeddings", EXCHANGE_ADVICE)


def backward_to_embeddings(
    objective: Objective, embeddings: torch.Tensor, batch: PairBatch, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a rank's share of the loss, and its gradient by the embeddings of the whole batch.

    Args:
        objective: The loss.
        embeddings: (texts of all ranks, dim) without a graph; the gradient is taken by them.
        batch: The batch.
        scale: Factor of the loss.
    """
    embeddings.requires_grad_()
    total = torch.zeros((), device=embeddings.device)
    for part in objective.parts(embeddings, batch):
        part = part * scale
        part.backward()  # type: ignore[no-untyped-call]
        total += part.detach()
    return total, torch.zeros_like(embeddings) if embeddings.grad is None else embeddings.grad
