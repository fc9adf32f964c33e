"""Static shapes: packed batches rounded up to few sizes, each to be captured once as a CUDA graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from aisle.text.token_batches import PackedBatch

MOST_SURPLUS = 0.06
"""Largest share of dummy tokens: more surplus wastes time; less needs more captures."""
SHORT_TEXT = 128
"""Batches without longer texts have shapes of their own, for which a GPU has a faster attention
(`kernels.gpu_attention`); otherwise a single long text would slow down all steps of a run."""


def static_batch(batch: PackedBatch, longest: int, token_id: int) -> PackedBatch:
    """Return a packed batch of static shape: the texts, then dummy texts, then empty texts.

    Dummy texts fill the tokens up to `token_capacity`, empty texts the rows up to `row_capacity`. Their
    embeddings have no use and get no gradient, so the result for the texts is that of the batch as it was.

    Args:
        batch: Packed batch on the CPU.
        longest: Tokens in the longest text of the run. The batch's `longest` becomes this, or at most
            `SHORT_TEXT` if none of its texts is longer. Dummy texts are not longer either: attention over
            a long one would cost more than over the texts.
        token_id: Token of the dummy texts.
    """
    if batch.longest <= SHORT_TEXT:
        longest = min(longest, SHORT_TEXT)
    capacity = token_capacity(batch.read_tokens)
    surplus = capacity - batch.read_tokens
    whole, rest = divmod(surplus, longest)
    dummies = np.array([longest] * whole + [rest] * (rest > 0), dtype=np.int64)
    rows = row_capacity(len(batch), capacity, longest)
    ends = batch.read_tokens + np.cumsum(dummies)
    offsets = np.full(rows + 1, capacity, dtype=np.int32)
    offsets[: len(batch) + 1] = batch.offsets.numpy()
    offsets[len(batch) + 1 : len(batch) + 1 + len(dummies)] = ends
    ids = torch.full((surplus,), token_id, dtype=batch.input_ids.dtype)
    positions = torch.arange(surplus) % longest
    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, ids]),
        positions=torch.cat([batch.positions, positions]),
        types=None if batch.types is None else torch.cat([batch.types, torch.zeros_like(ids)]),
        offsets=torch.from_numpy(offsets),
        runs=(*batch.runs, *(((whole, longest),) if whole else ()), *(((1, rest),) if rest else ())),
        longest=longest,
    )


def token_capacity(tokens: int) -> int:
    """Return a number of tokens rounded up, by at most `MOST_SURPLUS`: there are at most 18 from n to 2 n."""
    step = _step(tokens)
    return -(-tokens // step) * step


def row_capacity(texts: int, tokens: int, longest: int) -> int:
    """Return the rows of a static batch: texts rounded up to a power of two, and the most dummy texts.

    An empty text costs next to nothing. A full batch of 64 pairs has some of 128 texts fewer, by repetition,
    and always the same rows.

    Args:
        texts: Number of texts.
        tokens: Capacity of tokens.
        longest: Tokens in the longest dummy text.
    """
    return (1 << (texts - 1).bit_length()) + -(-_step(tokens) // longest)


def _step(tokens: int) -> int:
    """Return the largest power of two that is at most `MOST_SURPLUS` of some tokens."""
    return 1 << max(int(tokens * MOST_SURPLUS).bit_length() - 1, 0)
