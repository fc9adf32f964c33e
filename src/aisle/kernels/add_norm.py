"""Dropout, residual connection and layer norm in one kernel on a GPU, and their gradients in another.

Import this module on CUDA only: it needs Triton.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from aisle.kernels.triton_dropout import draw_seed, keep_bits, scale_of, threshold_of

ROWS = 4
"""Rows of a program, 1, 2, 4 or 8: they share random numbers. It does not depend on the number of
rows, so that no kernel must be compiled while a graph of another shape is captured."""
WARP_VALUES = 512
"""Values of a row for each warp: 16 a thread."""


class AddNorm(torch.autograd.Function):
    """LayerNorm(residual + dropout(hidden)), with the gradients of both; the norm's weights are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        epsilon: float,
        dropout: float,
    ) -> torch.Tensor:
        """Return the norm of the sum, shaped like the inputs.

        The sum is rounded to the inputs' type before the norm, as in separate operations, and is kept for the
        backward pass in place of both inputs.
        """
        hidden, residual = hidden.contiguous(), residual.contiguous()
        rows, width = hidden.numel() // hidden.shape[-1], hidden.shape[-1]
        seed = draw_seed(hidden.device) if dropout else None
        keep = any(ctx.needs_input_grad[:2])
        normed = torch.empty_like(hidden)
        total = torch.empty_like(hidden) if keep else normed
        spread = torch.empty(rows if keep else 0, dtype=torch.float32, device=hidden.device)
        _launch(
            _forward_kernel,
            (hidden, residual, weight, bias, normed, total, spread),
            seed,
            rows,
            width,
            dropout,
            epsilon=epsilon,
            KEEP=keep,
        )
        ctx.save_for_backward(total, weight, spread, seed)
        ctx.dropout = dropout
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of hidden and residual."""
        total, weight, spread, seed = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_residual = torch.empty_like(total)
        of_hidden = of_residual if seed is None else torch.empty_like(total)
        rows, width = total.numel() // total.shape[-1], total.shape[-1]
        _launch(
            _backward_kernel,
            (gradient, total, weight, spread, of_hidden, of_residual),
            seed,
            rows,
            width,
            ctx.dropout,
        )
        return of_hidden, of_residual, None, None, None, None


def add_norm(
    hidden: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    epsilon: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Return LayerNorm(residual + dropout(hidden)), computed in float32: (..., width), in the inputs' type.

    The host reads nothing of the device, so that a CUDA graph can capture it.

    Args:
        hidden: (..., width).
        residual: Like `hidden`.
        weight: (width,) frozen weight of the norm, in half precision or float32.
        bias: Like `weight`.
        epsilon: Added to the variance.
        dropout: Dropout rate, below 1.
    """
    compute: Any = AddNorm.apply
    normed: torch.Tensor = compute(hidden, residual, weight, bias, epsilon, dropout)
    return normed


def _launch(
    kernel: Any,
    tensors: tuple[torch.Tensor, ...],
    seed: torch.Tensor | None,
    rows: int,
    width: int,
    dropout: float,
    **options: Any,
) -> None:
    if not rows:
        return
    block = triton.next_power_of_2(width)
    on_its_device: Any = torch.cuda.device_of  # Triton launches on the current device
    with on_its_device(tensors[0]):
        kernel[(triton.cdiv(rows, ROWS),)](
            *tensors,
            tensors[0] if seed is None else seed,
            rows,
            width,
            threshold_of(dropout),
            scale_of(dropout),
            **options,
            BLOCK=block,
            ROWS=ROWS,
            DROPOUT=seed is not None,
            num_warps=min(max(block // WARP_VALUES, 1), 16),
        )


@triton.jit
def _row_bits(seed: tl.tensor, first: tl.tensor, threshold: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """Return the kept values of up to 8 rows, a bit for each row: (BLOCK,) int32."""
    return keep_bits(tl.load(seed), (first // 8).to(tl.int64) * BLOCK + tl.arange(0, BLOCK), threshold)


@triton.jit(do_not_specialize=["rows", "threshold"])
def _forward_kernel(
    hidden: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    normed: tl.tensor,
    total: tl.tensor,
    spread: tl.tensor,
    seed: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    threshold: tl.tensor,
    kept_scale: tl.tensor,
    epsilon: tl.tensor,
    KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    DROPOUT: tl.constexpr,
) -> None:
    first = tl.program_id(0) * ROWS
    columns = tl.arange(0, BLOCK)
    start = first.to(tl.int64) * width
    scale = tl.load(weight + columns, mask=columns < width, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=columns < width, other=0.0).to(tl.float32)
    if DROPOUT:
        bits = _row_bits(seed, first, threshold, BLOCK)
    for row in range(ROWS):
        place = start + row * width + columns
        inside = (columns < width) & (first + row < rows)
        values = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
        if DROPOUT:
            kept = (bits >> (first % 8 + row)) & 1
            values = tl.where(kept != 0, values * kept_scale, 0.0)
        values += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        rounded = values.to(normed.dtype.element_ty)
        values = rounded.to(tl.float32)
        centred = tl.where(inside, values - tl.sum(values, axis=0) / width, 0.0)
        factor = tl.rsqrt(tl.sum(centred * centred, axis=0) / width + epsilon)
        found = centred * factor * scale + shift
        tl.store(normed + place, found.to(normed.dtype.element_ty), mask=inside)
        if KEEP:
            tl.store(total + place, rounded, mask=inside)
            tl.store(spread + first + row, factor, mask=first + row < rows)


@triton.jit(do_not_specialize=["rows", "threshold"])
def _backward_kernel(
    gradient: tl.tensor,
    total: tl.tensor,
    weight: tl.tensor,
    spread: tl.tensor,
    of_hidden: tl.tensor,
    of_residual: tl.tensor,
    seed: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    threshold: tl.tensor,
    kept_scale: tl.tensor,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    DROPOUT: tl.constexpr,
) -> None:
    first = tl.program_id(0) * ROWS
    columns = tl.arange(0, BLOCK)
    start = first.to(tl.int64) * width
    scale = tl.load(weight + columns, mask=columns < width, other=0.0).to(tl.float32)
    if DROPOUT:
        bits = _row_bits(seed, first, threshold, BLOCK)
    for row in range(ROWS):
        place = start + row * width + columns
        inside = (columns < width) & (first + row < rows)
        values = tl.load(total + place, mask=inside, other=0.0).to(tl.float32)
        factor = tl.load(spread + first + row, mask=first + row < rows, other=0.0)
        normed = tl.where(inside, values - tl.sum(values, axis=0) / width, 0.0) * factor
        outer = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32) * scale
        # The gradient of a norm: (g - mean of g - n mean of n g) / deviation.
        along = normed * (tl.sum(outer * normed, axis=0) / width)
        found = (outer - tl.sum(outer, axis=0) / width - along) * factor
        rounded = found.to(of_residual.dtype.element_ty)
        tl.store(of_residual + place, rounded, mask=inside)
        if DROPOUT:
            kept = (bits >> (first % 8 + row)) & 1
            found = tl.where(kept != 0, found * kept_scale, 0.0)
            tl.store(of_hidden + place, found.to(of_hidden.dtype.element_ty), mask=inside)
