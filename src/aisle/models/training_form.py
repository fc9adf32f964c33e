"""A backbone as training wants it: its dropout, and frozen weights in the compute type."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def set_dropout(backbone: nn.Module, dropout: float) -> None:
    """Set the dropout of all layers of a backbone, attention included; call before an adapter is attached."""
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        # Decoders keep the rate of their attention weights as a number.
        if isinstance(getattr(module, "attention_dropout", None), float):
            holder: Any = module
            holder.attention_dropout = dropout


def drops_attention(backbone: nn.Module) -> bool:
    """Return whether some layer of a backbone has dropout, and so perhaps its attention weights."""
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0) or getattr(module, "attention_dropout", 0.0) > 0
        for name, module in backbone.named_modules()
        if "lora_" not in name
    )


def freeze_pooler(backbone: nn.Module) -> None:
    """Leave BERT's pooler untrained: no embedding reads it, and DDP waits for gradients that never come."""
    for name, parameter in backbone.named_parameters():
        if name.startswith("pooler."):
            parameter.requires_grad_(False)


def cast_frozen(backbone: nn.Module, compute_type: torch.dtype) -> None:
    """Store the frozen linear layers in the compute type.

    Autocast would cast them anew in every forward pass; the rounding is the same. Norms and embeddings
    stay in float32, in which autocast computes them.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(compute_type)
