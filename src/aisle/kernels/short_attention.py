"""Attention within each of many short packed texts on a GPU: a program computes a text's head in one tile.

Flash Attention computes tiles of 64 to 128 tokens, but queries have about 7 and titles 30. Here a text has a
tile of 16, 32, 64 or 128 tokens. The backward pass computes the weights again and writes every gradient once,
without atomic additions.

Import this module on CUDA only: it needs Triton.
"""

from __future__ import annotations

from typing import Any

import torch
import triton

from aisle.kernels.attention_kernels import backward_kernel, forward_kernel
from aisle.kernels.triton_dropout import draw_seed, scale_of, threshold_of

WARPS = {16: (1, 1), 32: (2, 2), 64: (4, 4), 128: (8, 8)}
"""Tokens of a tile: warps of a program in the forward and in the backward pass."""
ENOUGH_PROGRAMS = 1300
"""Programs of a kernel that keep a GPU busy. With more, a program computes several heads of its text, because
the programs of other tiles exit at once, and each exit takes time. Batches of 2^n pairs are far from the
limits, so that no kernel must be compiled while a graph of another shape is captured."""


class ShortAttention(torch.autograd.Function):
    """softmax(s Q K^T) V within each text, with dropout of the weights, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        offsets: torch.Tensor,
        longest: int,
        scaling: float,
        causal: bool,
        dropout: float,
    ) -> torch.Tensor:
        """Return the attention of each token: (tokens, heads, head_dim)."""
        query, key, value = (_with_dense_tokens(one) for one in (query, key, value))
        seed = draw_seed(query.device) if dropout else None
        ctx.save_for_backward(query, key, value, offsets, seed)
        ctx.longest, ctx.options = longest, (scaling, causal, dropout)
        attended = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        for tile in _tiles(longest):
            _launch(
                forward_kernel,
                (query, key, value),
                (attended, attended.stride(0)),
                offsets,
                seed,
                tile,
                WARPS[tile][0],
                *ctx.options,
            )
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of query, key and value.

        They are views of one tensor, (tokens, 3, heads, head_dim): the gradient of a joint projection.
        """
        query, key, value, offsets, seed = ctx.saved_tensors
        gradient = _with_dense_tokens(gradient)
        tokens, heads, head_dim = query.shape
        joint = torch.empty((tokens, 3, heads, head_dim), dtype=query.dtype, device=query.device)
        of_query, of_key, of_value = joint.unbind(1)
        for tile in _tiles(ctx.longest):
            _launch(
                backward_kernel,
                (query, key, value),
                (gradient, gradient.stride(0), of_query, of_key, of_value, joint.stride(0)),
                offsets,
                seed,
                tile,
                WARPS[tile][1],
                *ctx.options,
            )
        return of_query, of_key, of_value, None, None, None, None, None


def short_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    *,
    longest: int,
    scaling: float,
    causal: bool = False,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Return attention within each packed text: (tokens, heads, head_dim), in the type of the query.

    The host reads nothing of the device, so that a CUDA graph can capture it.

    Args:
        query: (tokens, heads, head_dim). Tokens may have any stride; each token's heads are contiguous, or
            the tensor is copied.
        key: Like `query`; query heads do not share key heads.
        value: Like `query`.
        offsets: (texts + 1,) int32, where each text begins; the last is the number of tokens. Texts may be
            empty. Tokens outside every text are left undefined.
        longest: Tokens in the longest text, or more; at most 128, the largest of `WARPS`.
        scaling: Factor of the scores.
        causal: Whether a token sees only earlier tokens.
        dropout: Dropout rate of the attention weights, below 1.
    """
    attend: Any = ShortAttention.apply
    attended: torch.Tensor = attend(query, key, value, offsets, longest, scaling, causal, dropout)
    return attended


def _tiles(longest: int) -> list[int]:
    """Return the sizes of the tiles for texts of up to `longest` tokens."""
    sizes = list(WARPS)
    return [tile for shorter, tile in zip([0, *sizes[:-1]], sizes, strict=True) if longest > shorter]


def _with_dense_tokens(heads: torch.Tensor) -> torch.Tensor:
    """Return (tokens, heads, head_dim) with each token's heads contiguous, without a copy where possible."""
    dense = heads.stride(2) == 1 and heads.stride(1) == heads.shape[2]
    return heads if dense else heads.contiguous()


def _launch(
    kernel: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    others: tuple[torch.Tensor | int, ...],
    offsets: torch.Tensor,
    seed: torch.Tensor | None,
    tile: int,
    warps: int,
    scaling: float,
    causal: bool,
    dropout: float,
) -> None:
    query, key, value = inputs
    _, heads, head_dim = query.shape
    texts = len(offsets) - 1
    heads_each = _heads_of_a_program(texts, heads)
    shorter = max((other for other in WARPS if other < tile), default=0)
    on_its_device: Any = torch.cuda.device_of  # Triton launches on the current device
    with on_its_device(query):
        kernel[(texts * heads // heads_each,)](
            query,
            key,
            value,
            query.stride(0),
            key.stride(0),
            value.stride(0),
            *others,
            offsets,
            offsets if seed is None else seed,
            heads,
            head_dim,
            scaling,
            threshold_of(dropout),
            scale_of(dropout),
            SHORTER=shorter,
            TILE=tile,
            WIDTH=max(16, triton.next_power_of_2(head_dim)),
            HEADS=heads_each,
            CAUSAL=causal,
            DROPOUT=seed is not None,
            num_warps=warps,
            num_stages=1,
        )


def _heads_of_a_program(texts: int, heads: int) -> int:
    """Return how many heads of its text a program computes."""
    fitting = (count for count in (4, 2) if not heads % count)
    return next((count for count in fitting if texts * heads >= count * ENOUGH_PROGRAMS), 1)
