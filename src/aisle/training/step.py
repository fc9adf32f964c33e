"""A training step: embed, gather, loss, backward to embeddings, backward to weights, reduce, clip, optimise.

The loss depends on the model only through the embeddings of the whole batch, over all ranks. So its gradient
is first computed with respect to the embeddings; then each rank backpropagates its own rows to the weights.
Between the `_alone` blocks, ranks exchange tensors (`distributed`). Other modules handle scarce memory:
`grad_cache` embeds in sub-batches, `memory_retry` switches to it, and `rank_sync` makes all ranks retry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from aisle.training.batch_figures import batch_figures
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
    "Its state has two numbers for every trained weight: train a LoRA adapter (--use_peft), with a lower "
    "--lora_rank or fewer --lora_target_modules"
)


@dataclass
class TrainingStep:
    """Take a step of the optimiser, along the gradient of the mean loss over all pairs of its batches.

    Args:
        accelerator: The run's `Accelerator`.
        forward: The model's forward and backward pass.
        objective: The loss.
        optimizer: The prepared optimiser.
        scheduler: Learning rate schedule; not prepared.
        max_grad_norm: Norm to which longer gradients are clipped; None is off.
        retry: Retry in smaller sub-batches when memory runs out.
        sync: Synchronisation that keeps ranks in step when memory runs out; with it, the step sums the
            gradients itself. None leaves the sum to the distributed wrapper.
        measured: Whether each query ranks the products of its batch, for the log.
    """

    accelerator: Any
    forward: Forward
    objective: Objective
    optimizer: Any
    scheduler: Any
    max_grad_norm: float | None
    retry: MemoryRetry
    sync: RankSync | None
    measured: bool = False

    def __call__(self, batches: Sequence[PairBatch], *, number: int, stop: bool) -> torch.Tensor:
        """Take a step; return its metrics for `StepMetrics.read`, summed over the ranks.

        Args:
            batches: Batches whose gradients are accumulated.
            number: Number of the step, for messages.
            stop: Whether this rank received a signal to stop.
        """
        moved = [batch.to(self.accelerator.device) for batch in batches]
        summed = self.retry(lambda sub_batch_tokens: self._add_gradients(moved, sub_batch_tokens), moved)
        real, read = sum(batch.real_tokens for batch in moved), sum(batch.read_tokens for batch in moved)
        own_metrics = metrics_to_sum(
            summed[0], real_tokens=real, read_tokens=read, stop=stop, figures=summed[1:]
        )
        metrics = sum_over_ranks(self.accelerator, own_metrics)
        with advising_on_memory(f"step {number}, the optimiser", OPTIMISER_ADVICE):
            self._reduce()
            norm = self._clip()
            self.optimizer.step()
        self.objective.keep_temperature()
        # Also in a step that fp16 skips on the device: the host does not read whether it was skipped.
        self.scheduler.step()
        self.optimizer.zero_grad()
        return torch.cat([metrics, norm.float().reshape(1)])

    def _add_gradients(self, batches: Sequence[PairBatch], sub_batch_tokens: int | None) -> torch.Tensor:
        """Add the gradient of the mean loss of all batches to the weights.

        Returns:
            (1 + figures,) this rank's share of the loss, then its share of the batches' metrics.
        """
        scale = 1 / max(sum(batch.weight for batch in batches), 1)
        return torch.stack(
            [
                self._add_gradient(batch, scale, sub_batch_tokens, last=number == len(batches))
                for number, batch in enumerate(batches, start=1)
            ]
        ).sum(dim=0)

    def _add_gradient(
        self, batch: PairBatch, scale: float, sub_batch_tokens: int | None, *, last: bool
    ) -> torch.Tensor:
        """Add the gradient of `scale` times a batch's loss; return this rank's share of loss and metrics."""
        rank = self.accelerator.process_index
        start, own = sum(batch.texts[:rank]), batch.texts[rank]
        with self._alone():
            if sub_batch_tokens is None:
                embedded = self.forward.embed(batch, last=last)
            else:
                self.forward.release_captured("memory ran out, so batches are embedded in sub-batches")
                embedded = embed_in_sub_batches(self.forward, batch, sub_batch_tokens, last=last)
        with self._exchange():
            embeddings = gather_rows(self.accelerator, embedded.embeddings[:own], batch.texts)
        with self._alone():
            loss, gradient = backward_to_embeddings(self.objective, embeddings, batch, scale)
        with self._exchange():
            gradient = sum_over_ranks(self.accelerator, gradient)
        with self._alone():
            # A rank without a text has embedded another rank's text; its gradient stays 0.
            of_own = torch.zeros_like(embedded.embeddings)
            of_own[:own] = gradient[start : start + own]
            embedded.backward(of_own)
        if not self.measured or batch.contrast is None:
            return loss.reshape(1)
        return torch.cat([loss.reshape(1), batch_figures(embeddings.detach(), batch.contrast)])

    def _reduce(self) -> None:
        """Sum over the ranks what the wrapper has not summed; it never sums the objective's gradients."""
        if self.sync is not None:
            sum_gradients(self._trained)
        for parameter in self.objective.trained:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradient = sum_over_ranks(self.accelerator, gradient)
            if self.accelerator.scaler is not None:
                gradient = self.accelerator.scaler.scale(gradient)  # the model's gradients are scaled too
            parameter.grad = gradient

    def _clip(self) -> torch.Tensor:
        """Clip the gradient to `max_grad_norm`; return its norm before clipping."""
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        norm: Any = self.accelerator.clip_grad_norm_(self._trained, limit)
        whole: torch.Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return whole

    @cached_property
    def _trained(self) -> list[torch.nn.Parameter]:
        """The model's trained weights; found once, because the search visits all weights.

        The first call is after a backward pass: FSDP2 then has its shards in place of whole weights.
        """
        return [weight for weight in self.forward.model.parameters() if weight.requires_grad]

    def _alone(self) -> AbstractContextManager[None]:
        """Return a context for work without collectives: all ranks succeed, or all ranks retry."""
        return nullcontext() if self.sync is None else self.sync.all_or_none()

    def _exchange(self) -> AbstractContextManager[None]:
        """Return a context for a collective: a rank cannot retry while the others wait in it."""
        if self.accelerator.num_processes == 1:
            return nullcontext()
        return advising_on_memory("the exchange of embeddings", EXCHANGE_ADVICE)


def backward_to_embeddings(
    objective: Objective, embeddings: torch.Tensor, batch: PairBatch, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a rank's share of the loss, and its gradient with respect to the whole batch's embeddings.

    Args:
        objective: The loss.
        embeddings: (texts of all ranks, dim) detached; they are set to require a gradient.
        batch: The batch.
        scale: Factor of the loss.
    """
    found = objective.gradient(embeddings, batch, scale)
    if found is not None:
        return found
    embeddings.requires_grad_()
    total = torch.zeros((), device=embeddings.device)
    for part in objective.parts(embeddings, batch):
        part = part * scale
        part.backward()  # type: ignore[no-untyped-call]
        total += part.detach()
    return total, torch.zeros_like(embeddings) if embeddings.grad is None else embeddings.grad
