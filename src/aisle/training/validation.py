"""Embed validation texts: each text once, divided among the ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from aisle.text.batch_layout import WHOLE_BATCH, Layout
from aisle.text.token_batches import split
from aisle.text.tokens import TokenizedTexts
from aisle.training.distributed import gather_rows
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
    """Return the embeddings of texts, the same on every rank; call on all ranks.

    Each of n ranks embeds every n-th distinct text.

    Args:
        accelerator: The run's `Accelerator`.
        model: The prepared towers.
        texts: Tokenised texts.
        numbers: (wanted,) text numbers to embed, in any order; a number may occur repeatedly.
        layout: Layout of texts for the backbone.
        max_texts: Most texts in a forward pass.

    Returns:
        (wanted, dim) float32 on the accelerator's device, unit L2 norm.

    Raises:
        TrainingError: Memory ran out.
    """
    distinct, wanted = np.unique(numbers, return_inverse=True)
    world = accelerator.num_processes
    shares_by_tower = [
        [part[index::world] for index in range(world)] for part in layout.by_tower(texts, distinct)
    ]
    was_training = model.training
    model.eval()
    # Not inference_mode: the tensors in which FSDP2 gathers weights are used in training afterwards.
    with advising_on_memory("evaluation", EVALUATION_ADVICE), torch.no_grad(), accelerator.autocast():
        gathered = torch.cat(
            [
                _embed_shares(accelerator, model, texts, shares, layout=layout, max_texts=max_texts)
                for shares in shares_by_tower
            ]
        )
    model.train(was_training)
    # For each distinct text, its row in `gathered`.
    place = np.argsort(np.concatenate([share for shares in shares_by_tower for share in shares]))
    return gathered[torch.from_numpy(place[wanted]).to(gathered.device)]


def _embed_shares(
    accelerator: Any,
    model: torch.nn.Module,
    texts: TokenizedTexts,
    shares: list[np.ndarray],
    *,
    layout: Layout,
    max_texts: int,
) -> torch.Tensor:
    """Return the embeddings of all processes' texts, ordered by process: (texts, dim) float32."""
    # All ranks must call a sharded model equally often, so a rank without a text embeds the first text.
    share = shares[accelerator.process_index]
    mine = share if len(share) else shares[0][:1]
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
    # All processes must call a sharded model equally often; its layout has no limit on tokens.
    calls = -(-len(shares[0]) // max_texts) if layout.max_tokens >= WHOLE_BATCH else 0
    for _ in range(calls - len(embedded)):
        model([layout.batch(texts, mine[:1]).to(accelerator.device)])
    back = torch.from_numpy(np.argsort(np.concatenate(groups))).to(accelerator.device)
    local = torch.cat(embedded)[back][: len(share)]
    return gather_rows(accelerator, local, tuple(map(len, shares))).float()
