"""Static shapes: packed batches rounded up to few sizes, each to be captured once as a CUDA graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from aisle.text.token_batches import PackedBatch

MOST_SURPLUS = 0.06
"""Largest share of dummy tokens: time that is lost, against a further size to capture."""


def static_batch(batch: PackedBatch, longest: int, token_id: int) -> PackedBatch:
    """Return a packed batch of static shape: the texts, then dummy texts, then empty texts.

    Dummy texts fill the tokens up to `token_capacity`, empty texts the rows up to a power of two. Their
    embeddings have no use and get no gradient, so the result for the texts is that of the batch as it was.

    Args:
        batch: Packed batch on the CPU.
        longest: Tokens in the longest text of the run. Dummy texts are not longer: attention over a long one
            would cost more than over the texts.
        token_id: Token of the dummy texts.
    """
    surplus = token_capacity(batch.read_tokens) - batch.read_tokens
    whole, rest = divmod(surplus, longest)
    dummies = np.array([longest] * whole + [rest] * (rest > 0), dtype=np.int64)
    rows = row_capacity(len(batch) + len(dummies))
    ends = batch.read_tokens + np.cumsum(dummies)
    offsets = np.full(rows + 1, batch.read_tokens + surplus, dtype=np.int32)
    offsets[: len(batch) + 1] = batch.offsets.numpy()
    offsets[len(batch) + 1 : len(batch) + 1 + len(dummies)] = ends
    ids = torch.full((surplus,), token_id, dtype=batch.input_ids.dtype)
    positions = torch.arange(surplus) % longest
    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, ids]),
        positions=torch.cat([batch.positions, positions]),
        offsets=torch.from_numpy(offsets),
        runs=(*batch.runs, *(((whole, longest),) if whole else ()), *(((1, rest),) if rest else ())),
        longest=longest,
    )


def token_capacity(tokens: int) -> int:
    """Return a number of tokens rounded up, by at most `MOST_SURPLUS`: there are at most 17 from n to 2 n."""
    step = 1 << max(int(tokens * MOST_SURPLUS).bit_length() - 1, 0)
    return -(-tokens // step) * step


def row_capacity(rows: int) -> int:
    """Return a number of rows rounded up to a power of two; an empty text costs next to nothing."""
    return 1 << (rows - 1).bit_length()
