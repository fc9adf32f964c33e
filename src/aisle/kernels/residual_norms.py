"""Fuse the dropout, residual connection and layer norm of BERT and its relatives into one kernel.

Separate kernels read and write the activations three times as often.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import nn

from aisle.kernels.device_faults import FAULTS
from aisle.kernels.triton_support import why_no_triton

PARTS = {"dense", "dropout", "LayerNorm"}
"""Names of the modules within BertSelfOutput and BertOutput; RoBERTa's and ELECTRA's are the same."""
WIDEST = 8192
"""Widest row that the kernel holds."""
HALF_TYPES = (torch.float16, torch.bfloat16)


def fuse_add_norm(backbone: nn.Module) -> int:
    """Make layers compute LayerNorm(residual + dropout(dense(hidden))) in one kernel after `dense`.

    The kernel runs on a GPU in half precision, without autocast, while the norm is frozen. Anything else is
    computed by the same modules as before. Layers are recognised by their parts, and by a comparison with
    what they compute. Not with torch.compile, which fuses these operations itself.

    Args:
        backbone: Any backbone, with or without an adapter.

    Returns:
        The number of layers' parts that are fused.
    """
    known: dict[type, bool] = {}
    fused = 0
    for module in backbone.modules():
        if _has_the_parts(module):
            kind = type(module)
            if kind not in known:
                known[kind] = _adds_and_norms(module)
            if known[kind]:
                module.forward = partial(_forward, module)
                fused += 1
    return fused


def _has_the_parts(module: nn.Module) -> bool:
    parts = dict(module.named_children())
    if set(parts) != PARTS or "forward" in vars(module):
        return False
    norm = parts["LayerNorm"]
    if type(norm) is not nn.LayerNorm or norm.weight is None or norm.bias is None:
        return False
    return len(norm.normalized_shape) == 1 and isinstance(parts["dropout"], nn.Dropout)


def _adds_and_norms(module: nn.Module) -> bool:
    """Return whether a module computes what its parts suggest; an architecture may do anything with them."""
    parts: Any = dict(module.named_children())
    norm, width = copy.deepcopy(parts["LayerNorm"]).float(), parts["LayerNorm"].normalized_shape[0]
    device = norm.weight.device
    dense = nn.Linear(width, width, device=device)
    tried: Any = copy.copy(module)
    tried._modules = {"dense": dense, "dropout": nn.Identity(), "LayerNorm": norm}
    hidden, residual = torch.linspace(-9, 9, 6 * width, device=device).sin().view(2, 1, 3, width)
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            found = tried(hidden, residual)
            return bool(torch.allclose(found, norm(dense(hidden) + residual), atol=1e-5))
    except (TypeError, ValueError, RuntimeError, AttributeError) as refusal:
        if isinstance(refusal, FAULTS):
            raise
        return False  # its forward takes or returns something else


def _forward(module: Any, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
    norm, dropout = module.LayerNorm, module.dropout
    hidden = module.dense(hidden_states)
    rate = dropout.p if dropout.training else 0.0
    if not _suits_the_kernel(hidden, input_tensor, norm, rate):
        plain: torch.Tensor = norm(dropout(hidden) + input_tensor)
        return plain
    from aisle.kernels.add_norm import add_norm

    return add_norm(hidden, input_tensor, norm.weight, norm.bias, epsilon=norm.eps, dropout=rate)


def _suits_the_kernel(hidden: torch.Tensor, residual: torch.Tensor, norm: nn.LayerNorm, rate: float) -> bool:
    return (
        hidden.is_cuda
        and hidden.dtype == residual.dtype
        and hidden.dtype in HALF_TYPES
        and hidden.shape == residual.shape
        and hidden.shape[-1] <= WIDEST
        and rate < 1
        and not torch.is_autocast_enabled("cuda")
        and not (torch.is_grad_enabled() and (norm.weight.requires_grad or norm.bias.requires_grad))
        and why_no_triton(hidden.device, hidden.dtype) is None
    )
