"""Embeddings of validation texts, each text once, shared among the processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from aisle.text.token_batches import WHOLE_BATCH, Layout, split
from aisle.text.tokens import TokenizedTexts
from aisle.training.gradients import gather_rows
from aisle.training.out_of_memory import advising_on_memory

EVALUATION_ADVICE = "Give a lower --per_device_eval_batch_size, --max_tokens_per_sub_batch or --max_length"


def embed_texts(
    accelerator: Any,
    model: torch.nn.Module,
    texts: TokenizedTexts,
    numbers: np.ndarray,
    *,
    layout: Layout,
    max_texts: int,
) -> torch.Tensor:
    """Return the embeddings of some texts on every process; call on all of them.

    Each process encodes every n-th of the distinct texts; none is lost or counted twice.

    Args:
        accelerator: gathers over the processes.
        model: the prepared embedder.
        texts: tokenised.
        numbers: (wanted,) which of the texts, in any order and as often as wanted.
        layout: how texts are laid out for the backbone.
        max_texts: the most texts of a forward pass.

    Returns:
        (wanted, dim) float32 on the accelerator's device, unit L2 norm.

    Raises:
        TrainingError: memory ran out.
    """
    distinct, wanted = np.unique(numbers, return_inverse=True)
    world, rank = accelerator.num_processes, accelerator.process_index
    shares = [distinct[index::world] for index in range(world)]
    # Under a sharded model all processes must call it equally often: one without a text reads one.
    mine = shares[rank] if len(shares[rank]) else distinct[:1]
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
        gathered = gather_rows(accelerator, local, tuple(map(len, shares))).float()
    model.train(was_training)
    place = np.argsort(np.concatenate(shares))  # where the gathered rows hold each of the distinct texts
    return gathered[torch.from_numpy(place[wanted]).to(gathered.device)]
