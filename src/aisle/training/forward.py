"""Forward and backward pass of the model: texts to embeddings, and their gradient to the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch

from aisle.kernels.captured_passes import CapturedPass, CapturedPasses, Record
from aisle.text.token_batches import PackedBatch, TokenBatch
from aisle.training.batches import PairBatch
from aisle.training.distributed import wrapper_sums_gradients


@dataclass(frozen=True)
class Embedded:
    """Embeddings of a rank's texts, and their backward pass.

    Args:
        embeddings: (texts, dim) float32, detached.
        backward: Function that adds to the weights' gradients, given the gradient of the embeddings, (texts,
            dim). Call it once.
    """

    embeddings: torch.Tensor
    backward: Callable[[torch.Tensor], None]


@dataclass(frozen=True)
class Forward:
    """The model's forward and backward pass, in the precision of the run.

    Args:
        accelerator: The run's `Accelerator`.
        model: The prepared model.
        wrapper_sums: Whether the distributed wrapper (DDP, FSDP2) sums gradients over the ranks in the
            backward pass. Otherwise the model is called without its wrapper, and the step sums them.
        captured: Passes as CUDA graphs, for batches of static shape; None computes all passes eagerly.
        eager_because: Why passes are not captured; None with `captured`.
    """

    accelerator: Any
    model: torch.nn.Module
    wrapper_sums: bool
    captured: CapturedPasses | None = None
    eager_because: str | None = None

    def embed(self, batch: PairBatch, *, last: bool) -> Embedded:
        """Embed a batch in a single forward pass that keeps its activations.

        Args:
            batch: Batch on the device.
            last: Whether this is the last batch before the optimiser steps; its backward pass sums gradients.
        """
        if self.captured is not None and (passes := self.captured.passes(batch.token_batches)) is not None:
            return self._embed_captured(self.captured, passes)
        embeddings = self.with_graph(batch.token_batches, last=last)
        return Embedded(embeddings.detach(), partial(self.backward, embeddings, last=last))

    def with_graph(self, token_batches: list[TokenBatch], *, last: bool) -> torch.Tensor:
        """Return embeddings with their graph, for `backward`: (texts, dim) float32."""
        model = self.model if self.wrapper_sums else self.unwrapped
        with self._summing(last), self.accelerator.autocast():
            embeddings: torch.Tensor = model(token_batches)
        return embeddings.float()

    def backward(self, embeddings: torch.Tensor, gradient: torch.Tensor, *, last: bool) -> None:
        """Add to the gradients of the weights, given the gradient of the embeddings.

        Embeddings of a frozen tower alone have no graph, and add nothing.
        """
        if not embeddings.requires_grad:
            return
        # Distributed wrappers take the mean over the ranks, and the gradient must be their sum.
        scaled = gradient * self.accelerator.num_processes if self.wrapper_sums else gradient
        scaler = self.accelerator.scaler
        with self._summing(last):
            torch.autograd.backward(embeddings, scaled if scaler is None else scaler.scale(scaled))

    def _embed_captured(
        self, captured: CapturedPasses, passes: list[tuple[CapturedPass, PackedBatch]]
    ) -> Embedded:
        """Return what `embed` returns, computed by graphs."""
        embedded = [one.embed(batch) for one, batch in passes]
        scaler = self.accelerator.scaler

        def backward(gradient: torch.Tensor) -> None:
            captured.keep_gradients()
            scaled = gradient if scaler is None else scaler.scale(gradient)
            parts = torch.split(scaled, [len(batch) for _, batch in passes])
            for (one, _), part in zip(passes, parts, strict=True):
                one.backward_from(part)

        return Embedded(torch.cat(embedded), backward)

    @property
    def why_eager(self) -> str | None:
        """Why steps were computed eagerly; None if graphs computed them, all but the first few."""
        if self.captured is None or self.captured.why_eager is not None:
            return self.eager_because if self.captured is None else self.captured.why_eager
        if self.captured.captured_batches:
            return None
        return "there were too few steps of the same shape to capture any"

    @property
    def captured_batches(self) -> int:
        """Number of batches of pairs that graphs computed."""
        return 0 if self.captured is None else self.captured.captured_batches

    def release_captured(self, reason: str) -> None:
        """Free the memory of captured passes; all further passes are computed eagerly."""
        if self.captured is not None and self.captured.why_eager is None:
            self.captured.release(reason)

    @cached_property
    def unwrapped(self) -> torch.nn.Module:
        """The model without its distributed wrapper; found once, because the search visits all modules."""
        model: torch.nn.Module = self.accelerator.unwrap_model(self.model)
        return model

    def _summing(self, last: bool) -> Any:
        return wrapper_sums_gradients(self.accelerator, self.model, when=last or not self.wrapper_sums)


def with_captured_passes(forward: Forward, *, log: Callable[[str], None], record: Record) -> Forward:
    """Return a forward pass that is captured, where its batches have static shapes.

    Args:
        forward: Eager forward pass; no wrapper sums its gradients over several ranks.
        log: Logs a line if passes cannot be captured.
        record: Captures a function.

    Raises:
        ValueError: A wrapper sums gradients; it does so in its backward pass, which graphs do not run.
    """
    if forward.wrapper_sums:
        raise ValueError("passes whose gradients a wrapper sums cannot be captured")
    model: Any = forward.unwrapped

    def embed(batch: PackedBatch) -> torch.Tensor:
        return forward.with_graph([batch], last=True)

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return replace(forward, captured=CapturedPasses(embed, model.dim, trained, log, record))
