"""Embeddings of the validation pairs, each text once, shared among the processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from aisle.models.token_batches import WHOLE_BATCH, Layout, split
from aisle.training.gradients import gather_rows
from aisle.training.machine import advising_on_memory
from aisle.training.tokenized import TokenizedPairs

EVALUATION_ADVICE = "Give a lower --per_device_eval_batch_size, --max_tokens_per_sub_batch or --max_length"


@dataclass(frozen=True)
class PairEmbeddings:
    """Embeddings of pairs.

    Args:
        queries: (pairs, dim) float32, unit L2 norm.
        products: (pairs, dim) float32, unit L2 norm.
    """

    queries: np.ndarray
    products: np.ndarray

    def scores(self) -> np.ndarray:
        """Return the cosine of each pair: (pairs,) float32."""
        cosines: np.ndarray = np.einsum("ij,ij->i", self.queries, self.products)
        return cosines


def embed_pairs(
    accelerator: Any,
    model: torch.nn.Module,
    pairs: TokenizedPairs,
    *,
    layout: Layout,
    max_texts: int,
    first: int | None = None,
) -> PairEmbeddings:
    """Return the embeddings of pairs on every process; call on all of them.

    Each process encodes every n-th of the distinct texts; none is lost or counted twice, whatever their
    number is.

    Args:
        accelerator: gathers over the processes.
        model: the prepared embedder.
        pairs: tokenised.
        layout: how texts are laid out for the backbone.
        max_texts: the most texts of a forward pass.
        first: embed so many of the pairs only.

    Raises:
        TrainingError: memory ran out.
    """
    queries, products = pairs.queries[:first], pairs.products[:first]
    numbers = np.unique(np.concatenate([queries, products]))
    world, rank = accelerator.num_processes, accelerator.process_index
    shares = [numbers[index::world] for index in range(world)]
    # Under a sharded model all processes must call it equally often: one without a text reads one.
    mine = shares[rank] if len(shares[rank]) else numbers[:1]
    texts = pairs.texts
    was_training = model.training
    model.eval()
    with advising_on_memory("evaluation", EVALUATION_ADVICE), torch.inference_mode(), accelerator.autocast():
        groups = [
            rows[start : start + max_texts]
            for rows in layout.rows(texts.lengths(mine))
            for start in range(0, len(rows), max_texts)
        ]
        embedded = [
            model([part])
            for rows in groups
            for part in split(layout.batch(texts, mine[rows]).to(accelerator.device), layout.max_tokens)
        ]
        # A sharded model (whose layout has no bound) must be called by all processes equally often.
        calls = -(-len(shares[0]) // max_texts) if layout.max_tokens >= WHOLE_BATCH else 0
        for _ in range(calls - len(embedded)):
            model([layout.batch(texts, mine[:1]).to(accelerator.device)])
        back = torch.from_numpy(np.argsort(np.concatenate(groups))).to(accelerator.device)
        local = torch.cat(embedded)[back][: len(shares[rank])]
        gathered = gather_rows(accelerator, local, tuple(map(len, shares))).float().cpu().numpy()
    model.train(was_training)
    by_number = np.empty_like(gathered)
    by_number[np.searchsorted(numbers, np.concatenate(shares))] = gathered
    return PairEmbeddings(
        queries=by_number[np.searchsorted(numbers, queries)],
        products=by_number[np.searchsorted(numbers, products)],
    )
