"""Attention over packed texts on a GPU: a kernel for batches of short texts, Flash Attention for others."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from aisle.kernels.flash_attention import AttentionOptions, flash_attention
from aisle.kernels.triton_support import why_no_triton
from aisle.text.token_batches import PackedBatch

LONGEST_SHORT_TEXT = 128
"""Flash Attention computes batches with a longer text; 0 uses it for all batches (for comparison)."""
LONGEST_IN_LITTLE_MEMORY = 64
"""The limit on GPUs with too little shared memory for the backward pass of 128 tokens, such as GeForce's."""
SHARED_MEMORY = 116 << 10
"""Bytes of shared memory that 128 tokens take."""
WIDEST_HEAD = 64
"""Wider heads need more registers than a thread has, and more shared memory than many GPUs have."""


def gpu_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedBatch,
    options: AttentionOptions,
) -> torch.Tensor:
    """Return attention within each text of a packed batch: (tokens, heads, head_dim), in half precision.

    For the arguments and errors see `flash_attention`.
    """
    if options.window is not None or not _are_short_texts(query, key, packed, options.dropout):
        return flash_attention(query, key, value, packed, options)
    from aisle.kernels.short_attention import short_attention

    return short_attention(
        query,
        key,
        value,
        packed.offsets,
        longest=packed.longest,
        scaling=options.scale(query.shape[2]),
        causal=options.causal,
        dropout=options.dropout,
    )


@cache
def _longest_on(device: torch.device) -> int:
    properties: Any = torch.cuda.get_device_properties(device)
    enough = getattr(properties, "shared_memory_per_block_optin", 0) >= SHARED_MEMORY
    return LONGEST_SHORT_TEXT if enough else LONGEST_IN_LITTLE_MEMORY


def _are_short_texts(query: torch.Tensor, key: torch.Tensor, packed: PackedBatch, dropout: float) -> bool:
    return (
        packed.longest <= min(LONGEST_SHORT_TEXT, _longest_on(query.device))
        and query.shape == key.shape
        and query.shape[2] <= WIDEST_HEAD
        and dropout < 1
        and why_no_triton(query.device, query.dtype) is None
    )
