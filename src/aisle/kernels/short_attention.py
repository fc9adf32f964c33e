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
import triton.language as tl

from aisle.kernels.triton_dropout import draw_seed, keep_bits, scale_of, threshold_of

LONGEST = 128
"""Longest text that a tile holds."""
WIDEST_HEAD = 128
WARPS = {16: (1, 1), 32: (2, 2), 64: (4, 4), 128: (8, 8)}
"""Tokens of a tile: warps of a program in the forward and in the backward pass."""
ENOUGH_PROGRAMS = 2048
"""Programs of a kernel that keep a GPU busy. With more, a program computes several heads of its text, because
the programs of other tiles exit at once, and each exit takes time."""


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
                _forward_kernel,
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
                _backward_kernel,
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
        longest: Tokens in the longest text, or more; at most `LONGEST`.
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


@triton.jit
def _weights(
    query: tl.tensor,
    key: tl.tensor,
    length: tl.tensor,
    scaling: tl.tensor,
    TILE: tl.constexpr,
    CAUSAL: tl.constexpr,
) -> tl.tensor:
    """Return softmax(s Q K^T) over a text's tokens: (TILE, TILE) float32, 0 for the columns beyond it."""
    columns = tl.arange(0, TILE)[None, :]
    scores = tl.dot(query, tl.trans(key)) * (scaling * 1.4426950408889634)
    seen = columns < length
    if CAUSAL:
        seen = seen & (columns <= tl.arange(0, TILE)[:, None])
    scores = tl.where(seen, scores, float("-inf"))
    powers = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
    return powers * (1 / tl.sum(powers, axis=1))[:, None]


@triton.jit
def _kept(
    seed: tl.tensor,
    start: tl.tensor,
    head: tl.tensor,
    heads: tl.tensor,
    threshold: tl.tensor,
    TILE: tl.constexpr,
) -> tl.tensor:
    """Return which weights of a text's head are kept: (TILE, TILE).

    Random numbers are shared by the columns that a thread holds after a product, two of every eight, so that
    no thread draws what another draws too.
    """
    PARTS: tl.constexpr = (TILE + 31) // 32
    EIGHTS: tl.constexpr = TILE // 8 // PARTS
    rows = (start + tl.arange(0, TILE)) * heads + head
    counters = rows[:, None, None] * 16 + tl.arange(0, PARTS)[None, :, None] * 4
    bits = keep_bits(seed, counters + tl.arange(0, 4)[None, None, :], threshold)
    eighth = tl.arange(0, EIGHTS)[None, None, :, None, None]
    bit = 2 * eighth + tl.arange(0, 2)[None, None, None, None, :]
    return tl.reshape((bits[:, :, None, :, None] >> bit) & 1, (TILE, TILE)) != 0


@triton.jit(do_not_specialize=["threshold"])
def _forward_kernel(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    query_stride: tl.tensor,
    key_stride: tl.tensor,
    value_stride: tl.tensor,
    attended: tl.tensor,
    attended_stride: tl.tensor,
    offsets: tl.tensor,
    seed: tl.tensor,
    heads: tl.tensor,
    head_dim: tl.tensor,
    scaling: tl.tensor,
    threshold: tl.tensor,
    kept_scale: tl.tensor,
    SHORTER: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr,
) -> None:
    groups = heads // HEADS
    text = tl.program_id(0) // groups
    first = (tl.program_id(0) % groups) * HEADS
    start = tl.load(offsets + text).to(tl.int64)
    length = (tl.load(offsets + text + 1) - start).to(tl.int32)
    if (length > SHORTER) & (length <= TILE):
        rows = tl.arange(0, TILE)[:, None]
        columns = tl.arange(0, WIDTH)[None, :]
        inside = (rows < length) & (columns < head_dim)
        query += start * query_stride + first * head_dim
        key += start * key_stride + first * head_dim
        value += start * value_stride + first * head_dim
        attended += start * attended_stride + first * head_dim
        if DROPOUT:
            drawn = tl.load(seed)
        for head in range(HEADS):
            place = head * head_dim + columns
            queries = tl.load(query + rows * query_stride + place, mask=inside, other=0.0)
            keys = tl.load(key + rows * key_stride + place, mask=inside, other=0.0)
            values = tl.load(value + rows * value_stride + place, mask=inside, other=0.0)
            weights = _weights(queries, keys, length, scaling, TILE, CAUSAL)
            if DROPOUT:
                kept = _kept(drawn, start, first + head, heads, threshold, TILE)
                weights = tl.where(kept, weights * kept_scale, 0.0)
            found = tl.dot(weights.to(values.dtype), values)
            tl.store(
                attended + rows * attended_stride + place, found.to(attended.dtype.element_ty), mask=inside
            )


@triton.jit(do_not_specialize=["threshold"])
def _backward_kernel(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    query_stride: tl.tensor,
    key_stride: tl.tensor,
    value_stride: tl.tensor,
    gradient: tl.tensor,
    gradient_stride: tl.tensor,
    of_query: tl.tensor,
    of_key: tl.tensor,
    of_value: tl.tensor,
    joint_stride: tl.tensor,
    offsets: tl.tensor,
    seed: tl.tensor,
    heads: tl.tensor,
    head_dim: tl.tensor,
    scaling: tl.tensor,
    threshold: tl.tensor,
    kept_scale: tl.tensor,
    SHORTER: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    CAUSAL: tl.constexpr,
    DROPOUT: tl.constexpr,
) -> None:
    groups = heads // HEADS
    text = tl.program_id(0) // groups
    first = (tl.program_id(0) % groups) * HEADS
    start = tl.load(offsets + text).to(tl.int64)
    length = (tl.load(offsets + text + 1) - start).to(tl.int32)
    if (length > SHORTER) & (length <= TILE):
        rows = tl.arange(0, TILE)[:, None]
        columns = tl.arange(0, WIDTH)[None, :]
        inside = (rows < length) & (columns < head_dim)
        query += start * query_stride + first * head_dim
        key += start * key_stride + first * head_dim
        value += start * value_stride + first * head_dim
        gradient += start * gradient_stride + first * head_dim
        joint = start * joint_stride + first * head_dim
        if DROPOUT:
            drawn = tl.load(seed)
        for head in range(HEADS):
            place = head * head_dim + columns
            queries = tl.load(query + rows * query_stride + place, mask=inside, other=0.0)
            keys = tl.load(key + rows * key_stride + place, mask=inside, other=0.0)
            values = tl.load(value + rows * value_stride + place, mask=inside, other=0.0)
            outer = tl.load(gradient + rows * gradient_stride + place, mask=inside, other=0.0)
            weights = _weights(queries, keys, length, scaling, TILE, CAUSAL)
            of_weights = tl.dot(outer, tl.trans(values))
            passed = weights
            if DROPOUT:
                kept = _kept(drawn, start, first + head, heads, threshold, TILE)
                passed = tl.where(kept, weights * kept_scale, 0.0)
                of_weights = tl.where(kept, of_weights * kept_scale, 0.0)
            # The gradient of a softmax: w (g - sum of w g).
            of_scores = weights * (of_weights - tl.sum(weights * of_weights, axis=1)[:, None])
            of_scores = of_scores.to(values.dtype)
            found = joint + rows * joint_stride + place
            tl.store(
                of_value + found,
                tl.dot(tl.trans(passed.to(values.dtype)), outer).to(values.dtype),
                mask=inside,
            )
            tl.store(of_query + found, (tl.dot(of_scores, keys) * scaling).to(values.dtype), mask=inside)
            tl.store(
                of_key + found,
                (tl.dot(tl.trans(of_scores), queries) * scaling).to(values.dtype),
                mask=inside,
            )
