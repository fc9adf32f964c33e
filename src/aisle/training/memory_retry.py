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
    """Call a function that computes a step's gradients, and again with half the tokens if memory runs out.

    Args:
        accelerator: Accelerate's.
        optimizer: Optimiser whose gradients are reset before a retry.
        sync: Keeps ranks in step. Without it several ranks cannot retry, and the run stops.
        cached_tokens: Tokens of a sub-batch from the start of the run (--cached_embeddings); None embeds a
            batch in one pass.
        state: Training state. It keeps the smaller number, so that a resumed run starts with it.
        log: Called with a message for the user, on the main rank.
    """

    accelerator: Any
    optimizer: Any
    sync: RankSync | None
    cached_tokens: int | None
    state: TrainState
    log: Callable[[str], None]

    @property
    def sub_batch_tokens(self) -> int | None:
        """Tokens of a sub-batch; None embeds a batch in one pass."""
        return self.state.sub_batch_tokens or self.cached_tokens

    def __call__(
        self, gradients: Callable[[int | None], torch.Tensor], batches: Sequence[PairBatch]
    ) -> torch.Tensor:
        """Return the function's result, computed with as many tokens a sub-batch as memory allows.

        Args:
            gradients: Adds the gradients of the batches, given the tokens of a sub-batch; returns the loss.
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
            # Outside `except`: the error's traceback keeps the tensors of the failed attempt in memory.
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
    """Return half the tokens of the largest sub-batch of a batch, or 0 if it is a single text.

    Args:
        batch: A rank's batch.
        sub_batch_tokens: Most tokens of a sub-batch; None takes the whole batch as one.
    """
    if sub_batch_tokens is None:
        texts, tokens = batch.own_texts, batch.read_tokens
    else:
        largest = max(sub_batches(batch, sub_batch_tokens), key=lambda part: part.read_tokens)
        texts, tokens = len(largest), largest.read_tokens
    return 0 if texts < 2 else tokens // 2
