"""Forward and backward pass of the model: texts to embeddings, and their gradient to the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from aisle.text.token_batches import TokenBatch
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
    """

    accelerator: Any
    model: torch.nn.Module
    wrapper_sums: bool

    def embed(self, batch: PairBatch, *, last: bool) -> Embedded:
        """Embed a batch in a single forward pass that keeps its activations.

        Args:
            batch: Batch on the device.
            last: Whether this is the last batch before the optimiser steps; its backward pass sums gradients.
        """
        embeddings = self.with_graph(batch.token_batches, last=last)
        return Embedded(embeddings.detach(), partial(self.backward, embeddings, last=last))

    def with_graph(self, token_batches: list[TokenBatch], *, last: bool) -> torch.Tensor:
        """Return embeddings with their graph, for `backward`: (texts, dim) float32."""
        model = self.model if self.wrapper_sums else self.unwrapped
        with self._summing(last), self.accelerator.autocast():
            embeddings: torch.Tensor = model(token_batches)
        return embeddings.float()

    def backward(self, embeddings: torch.Tensor, gradient: torch.Tensor, *, last: bool) -> None:
        """Add to the gradients of the weights, given the gradient of the embeddings."""
        # Distributed wrappers take the mean over the ranks, and the gradient must be their sum.
        averaged_over = self.accelerator.num_processes if self.wrapper_sums else 1
        with self._summing(last):
            self.accelerator.backward((embeddings * gradient).sum() * averaged_over)

    @property
    def unwrapped(self) -> torch.nn.Module:
        """The model without its distributed wrapper."""
        model: torch.nn.Module = self.accelerator.unwrap_model(self.model)
        return model

    def _summing(self, last: bool) -> Any:
        return wrapper_sums_gradients(self.accelerator, self.model, when=last or not self.wrapper_sums)
