"""Whether this machine compiles and runs the Triton kernels. Triton comes with torch for CUDA."""

from __future__ import annotations

import subprocess
from functools import cache

import torch

from aisle.kernels.device_faults import FAULTS

LARGEST_ERROR = 0.02
"""Largest accepted error of a kernel, in float16 or bfloat16, on numbers of about 1."""


@cache
def why_no_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why the Triton kernels cannot be used; None if they compile here and compute as torch does.

    Triton needs a C compiler at run time, which small container images lack. The first call takes a few
    seconds and must not happen while a CUDA graph is captured.

    Args:
        device: A GPU.
        dtype: float16 or bfloat16.

    Raises:
        RuntimeError: Memory ran out, or the device failed.
    """
    try:
        from triton import TritonError
    except ImportError:
        return "Triton is not installed"
    try:
        error = _largest_error(device, dtype)
    except (RuntimeError, OSError, subprocess.SubprocessError, TritonError) as refusal:
        if isinstance(refusal, FAULTS):
            raise
        return f"Triton does not compile here: {' '.join(str(refusal).split())[:200]}"
    if not error <= LARGEST_ERROR:
        return f"Triton's kernels differ from torch by {error:.2g} here"
    return None


def _largest_error(device: torch.device, dtype: torch.dtype) -> float:
    """Return the largest error of both kernels on a text of 7 tokens."""
    from aisle.kernels.add_norm import add_norm
    from aisle.kernels.short_attention import short_attention

    numbers = torch.linspace(-2, 2, 7 * 3 * 64).sin().view(7, 3, 1, 64).to(device, dtype)
    query, key, value = numbers.unbind(1)
    rows, others = query[:, 0], key[:, 0]
    offsets = torch.tensor([0, 7], dtype=torch.int32, device=device)
    ones = torch.ones(64, device=device, dtype=dtype)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        attended = short_attention(query, key, value, offsets, longest=7, scaling=0.1)
        scores = (rows.float() @ others.float().T) * 0.1
        normed = add_norm(rows, others, ones, ones, epsilon=1e-5)
        total = torch.nn.functional.layer_norm((rows + others).float(), (64,), eps=1e-5) + 1
        errors = (attended[:, 0] - scores.softmax(dim=1) @ value[:, 0].float(), normed - total)
        return max(float(error.abs().max()) for error in errors)
