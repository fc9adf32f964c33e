"""A batch of pairs as the model reads it: each distinct text once, texts of like length together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from aisle.data.batching import distinct, epoch_order, process_share
from aisle.models.encoder import EncoderSettings
from aisle.models.tokens import TokenBatch, TokenBudget, length_groups, pad, tokenize


@dataclass(frozen=True)
class PairBatch:
    """One process's pairs of one forward pass.

    Args:
        token_batches: the distinct texts, tokenised.
        query_rows: (pairs,) where each pair's query stands among the embeddings.
        product_rows: (pairs,) likewise for the products.
        relevance: (pairs,) float32 in [0, 1], or None where pairs carry no label.
        real_tokens: tokens of the distinct texts.
        padded_tokens: what the model reads, padding included.
    """

    token_batches: list[TokenBatch]
    query_rows: torch.Tensor
    product_rows: torch.Tensor
    relevance: torch.Tensor | None
    real_tokens: int
    padded_tokens: int

    def __len__(self) -> int:
        return len(self.query_rows)

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on a device."""
        return PairBatch(
            token_batches=[batch.to(device) for batch in self.token_batches],
            query_rows=self.query_rows.to(device),
            product_rows=self.product_rows.to(device),
            relevance=None if self.relevance is None else self.relevance.to(device),
            real_tokens=self.real_tokens,
            padded_tokens=self.padded_tokens,
        )


@dataclass(frozen=True)
class PairCollator:
    """Turns pairs into a `PairBatch`.

    Args:
        tokenizer: the model's tokenizer.
        settings: prompts and maximum length.
        budget: how texts are grouped into token batches.
    """

    tokenizer: Any
    settings: EncoderSettings
    budget: TokenBudget

    def __call__(
        self, queries: Sequence[str], products: Sequence[str], relevance: np.ndarray | None
    ) -> PairBatch:
        """Return the batch of these pairs.

        A text that is a query here and a product there is encoded once if the prompts are equal.
        """
        prompted = [self.settings.query_prompt + query for query in queries]
        prompted += [self.settings.product_prompt + product for product in products]
        texts = distinct(prompted)
        ids = tokenize(self.tokenizer, texts.texts, prompt="", max_length=self.settings.max_length)
        groups = length_groups([len(one) for one in ids], self.budget)
        place = np.empty(len(ids), dtype=np.int64)
        place[np.concatenate(groups)] = np.arange(len(ids))
        token_batches = [pad([ids[row] for row in rows], self.tokenizer.pad_token_id) for rows in groups]
        rows = torch.from_numpy(place[texts.rows])
        return PairBatch(
            token_batches=token_batches,
            query_rows=rows[: len(queries)],
            product_rows=rows[len(queries) :],
            relevance=None if relevance is None else torch.from_numpy(np.asarray(relevance, np.float32)),
            real_tokens=sum(len(one) for one in ids),
            padded_tokens=sum(batch.input_ids.numel() for batch in token_batches),
        )


@dataclass(frozen=True)
class BatchPlan:
    """Which pairs meet in which step: a function of the seed alone, so that a run can go on anywhere.

    Args:
        pairs: training pairs in all.
        batch_size: pairs per process and forward pass.
        num_processes: processes that share a global batch.
        accumulation: global batches whose gradients make up one step.
        seed: of the order.
        groups: (pairs,) the query of each pair, if a query's pairs are to stay together.
    """

    pairs: int
    batch_size: int
    num_processes: int
    accumulation: int
    seed: int
    groups: np.ndarray | None = None

    @property
    def pairs_per_step(self) -> int:
        """Pairs of a full step."""
        return self.batch_size * self.num_processes * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; the last one may be short, and no pair is left out."""
        return -(-self.pairs // self.pairs_per_step)

    def steps(self, epoch: int, *, first_step: int = 0) -> Iterator[list[np.ndarray]]:
        """Yield each step of an epoch from `first_step` on, as its global batches of pair numbers."""
        order = epoch_order(self.pairs, seed=self.seed, epoch=epoch, groups=self.groups)
        size = self.batch_size * self.num_processes
        for start in range(first_step * self.pairs_per_step, self.pairs, self.pairs_per_step):
            rows = order[start : start + self.pairs_per_step]
            yield [rows[at : at + size] for at in range(0, len(rows), size)]

    def share(self, rows: np.ndarray, process_index: int) -> np.ndarray:
        """Return one process's part of a global batch."""
        return process_share(rows, process_index=process_index, num_processes=self.num_processes)
