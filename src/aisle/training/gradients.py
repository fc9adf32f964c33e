"""From a batch to the gradient of its loss: at once, or in sub-batches whose activations are not kept.

The loss needs all embeddings of a batch, over all processes, but only the embeddings. So they are computed,
the gradient of the loss by them is taken, and that is carried back through the model: in one pass where the
batch's activations fit in memory, otherwise by GradCache (https://arxiv.org/abs/2101.06983): embed without
activations, then again with them, sub-batch by sub-batch. The gradient is the same.

Between those parts the processes exchange embeddings and their gradients. In a part each is alone, so that
one that has no memory left for it can say so, and all try again with less.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from aisle.errors import TrainingError
from aisle.text.token_batches import TokenBatch, split
from aisle.training.batches import PairBatch
from aisle.training.distributed import gather_rows, sum_gradients, sum_over_ranks, wrapper_sums_gradients
from aisle.training.objective import Objective
from aisle.training.out_of_memory import advising_on_memory
from aisle.training.rank_sync import RankSync

EXCHANGE_ADVICE = "Give --cached_embeddings, or a lower --max_tokens_per_sub_batch or --max_length"


@dataclass
class GradientPass:
    """Adds the gradient of batches to the parameters.

    Args:
        accelerator: processes, precision, backward passes.
        model: the prepared embedder.
        objective: the loss.
        cached: embed in sub-batches whose activations are not kept.
        max_tokens: tokens of a sub-batch.
        sync: of several processes that sum up their gradients here, after the backward pass. None leaves
            that to the model's distributed wrapper, which sums during it: faster where all weights are
            trained, but then a process that runs out of memory cannot go on with the others.
    """

    accelerator: Any
    model: torch.nn.Module
    objective: Objective
    cached: bool
    max_tokens: int
    sync: RankSync | None = None

    def __call__(self, batch: PairBatch, *, scale: float, last: bool) -> torch.Tensor:
        """Add the gradient of `scale` times the batch's loss; return this process's share of that loss.

        Args:
            batch: on the device.
            scale: what losses are multiplied by.
            last: whether the optimiser steps next, so that gradients are to be shared by the processes.
        """
        if self.cached:
            return self._in_sub_batches(batch, scale, last=last)
        with self._shared_when(last):
            with self._alone():
                embedded = self._embed(batch.token_batches)
            loss, gradient = self._loss_gradient(embedded.detach(), batch, scale)
            with self._alone():
                self._carry_back(embedded, gradient)
        return loss

    def halve(self, batch: PairBatch) -> int | None:
        """Go over to sub-batches of half the tokens; return how many, or None where they hold one text.

        All processes go over to the half of the largest sub-batch of any.
        """
        if self.accelerator.num_processes > 1 and self.sync is None:
            return None
        tried = max(self._sub_batches(batch), key=lambda one: one.read_tokens) if self.cached else None
        tokens = batch.read_tokens if tried is None else tried.read_tokens
        halved = 0 if (batch.own_texts if tried is None else len(tried)) < 2 else tokens // 2
        if self.sync is not None:
            halved = self.sync.highest(halved)
        if not halved:
            return None
        self.cached, self.max_tokens = True, halved
        return halved

    def share_gradients(self) -> None:
        """Give every process the gradients of all; call once a step, after its last batch."""
        if self.sync is not None:
            sum_gradients(one for one in self.model.parameters() if one.requires_grad)
        self._share_temperature_gradient()

    def _share_temperature_gradient(self) -> None:
        """Give every process the temperature's whole gradient, scaled as those of the model are.

        A process without a positive in the step has no gradient of its own, and shares a zero: the others
        wait for it.
        """
        if not self.objective.learns:
            return
        gradient = self.objective.log_temperature.grad
        if gradient is None:
            gradient = torch.zeros_like(self.objective.log_temperature)
        gradient = sum_over_ranks(self.accelerator, gradient)
        if self.accelerator.scaler is not None:
            gradient = gradient * self.accelerator.scaler.get_scale()
        self.objective.log_temperature.grad = gradient

    def _in_sub_batches(self, batch: PairBatch, scale: float, *, last: bool) -> torch.Tensor:
        parts = self._sub_batches(batch)
        device = self.accelerator.device
        if not RandomState.now(device).whole:
            raise TrainingError(
                f"--cached_embeddings: torch cannot restore the random numbers of the device {device.type}, "
                "so the dropout of the second pass would not be that of the first; train smaller batches "
                "without it"
            )
        states, embedded = [], []
        with self._alone(), torch.no_grad(), self.accelerator.autocast():
            for part in parts:
                states.append(RandomState.now(device))
                embedded.append(self._unwrapped([part]).float())
        after = RandomState.now(device)
        loss, gradient = self._loss_gradient(torch.cat(embedded), batch, scale)
        gradients = torch.split(gradient, [len(part) for part in parts])
        with self._alone():
            for number, (part, state, one) in enumerate(zip(parts, states, gradients, strict=True), start=1):
                state.restore()  # the same dropout as in the first pass
                with self._shared_when(last and number == len(parts)):
                    self._carry_back(self._embed([part]), one)
        after.restore()
        return loss

    def _sub_batches(self, batch: PairBatch) -> list[TokenBatch]:
        return [part for one in batch.token_batches for part in split(one, self.max_tokens)]

    def _embed(self, token_batches: list[TokenBatch]) -> torch.Tensor:
        model = self.model if self.sync is None else self._unwrapped
        with self.accelerator.autocast():
            embedded: torch.Tensor = model(token_batches)
        return embedded.float()

    @property
    def _unwrapped(self) -> torch.nn.Module:
        model: torch.nn.Module = self.accelerator.unwrap_model(self.model)
        return model

    def _loss_gradient(
        self, embedded: torch.Tensor, batch: PairBatch, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return this process's share of the loss, and the gradient of the whole by its embeddings."""
        mine = batch.texts[self.accelerator.process_index]
        with self._exchanging():
            everyone = gather_rows(self.accelerator, embedded[:mine], batch.texts)
        everyone.requires_grad_()
        total = torch.zeros((), device=everyone.device)
        with self._alone():
            for part in self.objective.parts(everyone, batch):
                part = part * scale
                part.backward()  # type: ignore[no-untyped-call]
                total += part.detach()
        gathered = torch.zeros_like(everyone) if everyone.grad is None else everyone.grad
        with self._exchanging():
            gathered = sum_over_ranks(self.accelerator, gathered)
        start = sum(batch.texts[: self.accelerator.process_index])
        gradient = torch.zeros_like(embedded)
        gradient[:mine] = gathered[start : start + mine]
        return total, gradient

    def _carry_back(self, embedded: torch.Tensor, gradient: torch.Tensor) -> None:
        # Distributed wrappers average over the processes; the gradient is that of a sum.
        averaged_over = self.accelerator.num_processes if self.sync is None else 1
        self.accelerator.backward((embedded * gradient).sum() * averaged_over)

    def _shared_when(self, shared: bool) -> AbstractContextManager[Any]:
        return wrapper_sums_gradients(self.accelerator, self.model, when=shared or self.sync is not None)

    def _alone(self) -> AbstractContextManager[None]:
        return nullcontext() if self.sync is None else self.sync.all_or_none()

    def _exchanging(self) -> AbstractContextManager[None]:
        """One that runs out of memory here leaves the others in the exchange: none of them can try again."""
        if self.accelerator.num_processes == 1:
            return nullcontext()
        return advising_on_memory("the exchange of embeddings", EXCHANGE_ADVICE)


@dataclass(frozen=True)
class RandomState:
    """The state of the random numbers that dropout draws from.

    Args:
        device: that the model computes on.
        of_cpu: state of the CPU's generator.
        of_device: state of the device's own; None on the CPU, and where torch gives none.
    """

    device: torch.device
    of_cpu: torch.Tensor
    of_device: torch.Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """Return the present state."""
        read: Any = getattr(_device_module(device), "get_rng_state", None)
        return cls(device, torch.get_rng_state(), None if read is None else read(device))

    @property
    def whole(self) -> bool:
        """Whether `restore` goes back to all of it."""
        return self.device.type == "cpu" or self.of_device is not None

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self.of_cpu)
        if self.of_device is not None:
            module: Any = _device_module(self.device)
            module.set_rng_state(self.of_device, self.device)


def _device_module(device: torch.device) -> Any:
    """Return torch's module for an accelerator (torch.cuda, torch.mps, torch.xpu, ...), None for the CPU."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)
