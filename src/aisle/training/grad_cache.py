"""GradCache: the gradient of a batch whose activations do not fit in memory.

The batch is embedded in sub-batches without keeping activations, and the loss gives the gradient with respect
to the embeddings. Then each sub-batch is embedded again, with activations, and its part of the gradient is
backpropagated. The result equals the gradient of a single pass (https://arxiv.org/abs/2101.06983).
"""

from __future__ import annotations

import torch

from aisle.errors import TrainingError
from aisle.text.token_batches import TokenBatch, split
from aisle.training.batches import PairBatch
from aisle.training.forward import Embedded, Forward
from aisle.training.random_state import RandomState


def embed_in_sub_batches(forward: Forward, batch: PairBatch, max_tokens: int, *, last: bool) -> Embedded:
    """Embed a batch in sub-batches; the backward pass embeds each sub-batch again.

    Args:
        forward: The model's forward and backward pass.
        batch: Batch on the device.
        max_tokens: Most tokens in a sub-batch; a longer text is a sub-batch by itself.
        last: Whether this is the last batch before the optimiser steps; its backward pass sums gradients.

    Raises:
        TrainingError: torch cannot restore the random state of the device.
    """
    parts = sub_batches(batch, max_tokens)
    device = forward.accelerator.device
    if not RandomState.now(device).whole:
        raise TrainingError(
            f"--cached_embeddings: torch cannot restore the random state of the device {device.type}, so "
            "dropout would differ between the first and the second pass; leave out the flag, and train with "
            "smaller batches"
        )
    states, embedded = [], []
    with torch.no_grad(), forward.accelerator.autocast():
        for part in parts:
            states.append(RandomState.now(device))
            embedded.append(forward.unwrapped([part]).float())
    after = RandomState.now(device)

    def backward(gradient: torch.Tensor) -> None:
        gradients = torch.split(gradient, [len(part) for part in parts])
        for number, (part, state, of_part) in enumerate(zip(parts, states, gradients, strict=True), start=1):
            state.restore()  # the same dropout as in the first pass
            sums = last and number == len(parts)
            forward.backward(forward.with_graph([part], last=sums), of_part, last=sums)
        after.restore()

    return Embedded(torch.cat(embedded), backward)


def sub_batches(batch: PairBatch, max_tokens: int) -> list[TokenBatch]:
    """Return a rank's texts in sub-batches of at most `max_tokens` tokens, or of a single longer text."""
    return [part for tokens in batch.token_batches for part in split(tokens, max_tokens)]
