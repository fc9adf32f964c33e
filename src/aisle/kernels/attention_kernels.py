"""Triton kernels of `short_attention`: a program computes some heads of a text, whose tokens are one tile.

A tile has TILE rows of WIDTH columns. A kernel computes texts of more than SHORTER and at most TILE tokens,
and its programs for other texts exit at once. Rows after the end of a text are zeros, and are not written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aisle.kernels.triton_dropout import keep_bits


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
def forward_kernel(
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
    """Write what each token of the tile's texts attends to."""
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
def backward_kernel(
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
    """Write the gradients of query, key and value, which share a stride; compute the weights again."""
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
