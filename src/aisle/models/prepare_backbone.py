"""A backbone as training wants it: its dropout, and frozen weights in the compute type."""

from __future__ import annotations

import torch
from torch import nn

from aisle.models.tower import Tower
from aisle.text.token_batches import TokenBatch

RATES = ("attention_dropout", "dropout", "activation_dropout")
"""Attributes in which decoders, Longformer, BART and T5 keep a rate as a number."""


def set_dropout(backbone: nn.Module, dropout: float) -> None:
    """Set the dropout of all layers of a backbone, attention included; call before an adapter is attached."""
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        for name in RATES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, dropout)


def drops_attention(backbone: nn.Module) -> bool:
    """Return whether some layer of a backbone has dropout, and so perhaps its attention weights."""
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0) or any(_rate(module, rate) > 0 for rate in RATES)
        for name, module in backbone.named_modules()
        if "lora_" not in name
    )


def _rate(module: nn.Module, name: str) -> float:
    rate = getattr(module, name, 0.0)
    return rate if isinstance(rate, float) else 0.0


def freeze_pooler(backbone: nn.Module) -> None:
    """Leave BERT's pooler untrained: no embedding reads it, and DDP waits for gradients that never come."""
    for name, parameter in backbone.named_parameters():
        if name.startswith("pooler."):
            parameter.requires_grad_(False)


def weights_without_gradient(embedder: Tower, batch: TokenBatch) -> list[str]:
    """Return the names of trained weights that the embeddings of a batch do not depend on.

    Longformer's global attention and RoFormer's table of positions are examples: no embedding reads the
    first, and the second is never differentiated.

    Args:
        embedder: without gradients; it has none afterwards either.
        batch: some texts, on the embedder's device.
    """
    was_training = embedder.training
    embedder.eval()  # no random numbers are drawn
    embedder([batch]).sum().backward()
    found = [
        name
        for name, parameter in embedder.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    embedder.zero_grad(set_to_none=True)
    embedder.train(was_training)
    return found


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
