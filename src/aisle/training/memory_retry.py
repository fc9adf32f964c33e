"""Retry a step that ran out of memory, with GradCache in smaller and smaller sub-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aisle.errors import TrainingError
from aisle.training.batches import PairBatch
from aisle.training.grad_cache import sub_batches
from aisle.training.out_of_memory import is_out_of_memory
from aisle.training.random_state import RandomState
from aisle.training.rank_sync import RankSync
from aisle.training.train_state import TrainState


@dataclass
class MemoryRetry:
    """Compute the gradients of a step; if memory runs out, halve the sub-batches and compute them again.

    Args:
        accelerator: The run's `Accelerator`.
        optimizer: Optimiser; its gradients are reset before a retry.
        sync: Synchronisation that makes all ranks retry together. If it is None, several ranks cannot retry,
            and the run stops.
        cached_tokens: Tokens in a sub-batch from the start of the run (--cached_embeddings); None embeds a
            batch in a single pass.
        state: Training state; it keeps the reduced number of tokens for a resumed run.
        log: Function called with a message for the user, on the main rank.
    """

    accelerator: Any
    optimizer: Any
    sync: RankSync | None
    cached_tokens: int | None
    state: TrainState
    log: Callable[[str], None]

    @property
    def sub_batch_tokens(self) -> int | None:
        """Tokens in a sub-batch; None embeds a batch in a single pass."""
        return self.state.sub_batch_tokens or self.cached_tokens

    def __call__(
        self, gradients: Callable[[int | None], torch.Tensor], batches: Sequence[PairBatch]
    ) -> torch.Tensor:
        """Return the loss from `gradients`, called with smaller sub-batches until memory suffices.

        Args:
            gradients: Function that computes the gradients of the batches, given the tokens in a sub-batch,
                and returns the loss.
            batches: Batches of the step, on the device.

        Raises:
            TrainingError: A single text does not fit in memory, or the ranks cannot retry.
        """
        random_state = RandomState.now(self.accelerator.device)
        while True:
            try:
                return gradients(self.sub_batch_tokens)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Not inside `except`, where the error's traceback keeps the failed attempt's tensors in memory.
            self._halve(max(batches, key=lambda batch: batch.read_tokens))
            random_state.restore()

    def _halve(self, largest: PairBatch) -> None:
        self.optimizer.zero_grad()
        several = self.accelerator.num_processes > 1
        tokens = 0 if several and self.sync is None else half_of(largest, self.sub_batch_tokens)
        if self.sync is not None:
            tokens = self.sync.highest(tokens)
        if not tokens:
            raise TrainingError(
                f"step {self.state.step + 1}: out of memory. Give --cached_embeddings with a lower "
                "--max_tokens_per_sub_batch, a lower --max_length or --gradient_checkpointing"
            )
        if self.state.sub_batch_tokens is None:
            self.log(
                f"out of memory: batches are encoded in sub-batches of {tokens:,} tokens from here on, or "
                "fewer if need be; the batch and its gradient stay the same"
            )
        self.state.sub_batch_tokens = tokens
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()


def half_of(batch: PairBatch, sub_batch_tokens: int | None) -> int:
    """Return half the tokens of a batch's largest sub-batch, or 0 if that is a single text.

    Args:
        batch: Batch of this rank.
        sub_batch_tokens: Most tokens in a sub-batch; None means that the batch is not divided.
    """
    if sub_batch_tokens is None:
        texts, tokens = batch.own_texts, batch.read_tokens
    else:
        largest = max(sub_batches(batch, sub_batch_tokens), key=lambda part: part.read_tokens)
        texts, tokens = len(largest), largest.read_tokens
    return 0 if texts < 2 else tokens // 2
