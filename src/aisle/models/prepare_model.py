"""Prepare a model for training: dropout, adapter, frozen weights in the compute type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from aisle.errors import ModelError
from aisle.kernels.fast_dropout import use_fast_dropout
from aisle.kernels.fused_lora import fuse_lora
from aisle.models.adapters import attach_lora, attach_trained_lora
from aisle.models.backbone import hidden_size
from aisle.models.heads import output_dim
from aisle.models.loading import LoadedModel
from aisle.models.tower import Tower
from aisle.models.trained_heads import make_head
from aisle.text.token_batches import TokenBatch
from aisle.types.head_options import HeadOptions

RATES = ("attention_dropout", "dropout", "activation_dropout")
"""Attributes of modules that hold a dropout rate as a number, in decoders, Longformer, BART and T5."""


@dataclass(frozen=True)
class Lora:
    """Settings of a LoRA adapter to train; see `attach_lora`."""

    rank: int
    alpha: int
    dropout: float
    target_modules: Sequence[str] | None
    use_dora: bool
    use_rslora: bool


def prepare_model(
    loaded: LoadedModel,
    *,
    lora: Lora | None,
    head: HeadOptions | None = None,
    freeze_encoder: bool = False,
    dropout: float | None = None,
    checkpoint_activations: bool = False,
    fuse_adapter: bool = False,
    frozen_type: torch.dtype | None = None,
    output_dropout: float = 0.0,
) -> Tower:
    """Return the tower to train, on the CPU; this changes the loaded model's backbone.

    Args:
        loaded: Model that training starts from; if it has a LoRA adapter, `lora` trains it further.
        lora: Adapter to train together with the heads; None trains all weights.
        head: Head to add on top of the model and its heads; None adds no head.
        freeze_encoder: Whether to train only the added head, and neither the backbone nor the model's heads.
        dropout: Dropout in the backbone; None keeps the backbone's rates.
        checkpoint_activations: Whether to recompute activations in the backward pass, to save memory.
        fuse_adapter: Whether to compute LoRA layers in a single operation; not with torch.compile.
        frozen_type: Number type of frozen linear layers; None means float32. Keep float32 for DoRA, which
            computes norms of the frozen weights.
        output_dropout: Dropout on the tower's output, before it is scaled to unit norm.

    Raises:
        ModelError: The architecture does not support gradient checkpointing, or has no layer with the name of
            a target of `lora`.
    """
    backbone: Any = loaded.backbone
    if checkpoint_activations:
        keep_few_activations(backbone)
    if dropout is not None:
        set_dropout(backbone, dropout)
    use_fast_dropout(backbone)
    freeze_pooler(backbone)
    if lora is not None:
        backbone = _with_adapter(backbone, loaded, lora)
        if fuse_adapter:
            fuse_lora(backbone)
        if frozen_type is not None:
            cast_frozen(backbone, frozen_type)
    loaded = replace(loaded, backbone=backbone)
    added = [] if head is None else make_head(head, output_dim(loaded.heads, hidden_size(backbone)))
    tower = loaded.tower(added, output_dropout=output_dropout)
    if freeze_encoder:
        tower.freeze_encoder()
    return tower


def frozen_tower(loaded: LoadedModel, *, frozen_type: torch.dtype | None = None) -> Tower:
    """Return a tower that training does not change, on the CPU.

    Args:
        loaded: The model; an adapter is merged already.
        frozen_type: As in `prepare_model`.
    """
    tower = loaded.tower()
    if frozen_type is not None:
        cast_frozen(tower.backbone.requires_grad_(False), frozen_type)
    tower.freeze_encoder()
    return tower


def _with_adapter(backbone: nn.Module, loaded: LoadedModel, lora: Lora) -> Any:
    reference, revision = loaded.source.reference, loaded.source.revision
    if loaded.adapter is not None:
        return attach_trained_lora(
            backbone,
            loaded.adapter.run.path,
            dropout=lora.dropout,
            base_reference=reference,
            base_revision=revision,
        )
    return attach_lora(backbone, **vars(lora), base_reference=reference, base_revision=revision)


def keep_few_activations(backbone: Any) -> None:
    """Compute activations again in the backward pass, to save memory.

    Raises:
        ModelError: The architecture does not support it.
    """
    # Before transformers 5.20 the name was gradient_checkpointing_enable.
    enable = getattr(backbone, "activation_checkpointing_enable", None)
    try:
        (enable or backbone.gradient_checkpointing_enable)({"use_reentrant": False})
    except (ValueError, NotImplementedError, AttributeError):
        raise ModelError(
            f"--gradient_checkpointing: {type(backbone).__name__} does not support it. To train in less "
            "memory, use --cached_embeddings, with a lower --max_tokens_per_sub_batch if necessary"
        ) from None


def set_dropout(backbone: nn.Module, dropout: float) -> None:
    """Set the dropout of all layers of a backbone, attention included; call before attaching an adapter."""
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        for name in RATES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, dropout)


def freeze_pooler(backbone: nn.Module) -> None:
    """Freeze BERT's pooler: no embedding depends on it, so DDP would wait for its gradient forever."""
    for name, parameter in backbone.named_parameters():
        if name.startswith("pooler."):
            parameter.requires_grad_(False)


def weights_without_gradient(model: nn.Module, batches: Sequence[TokenBatch]) -> list[str]:
    """Return the names of trained weights that get no gradient from the embeddings of some batches.

    Examples are Longformer's global attention, which no embedding depends on, and RoFormer's table of
    positions, which is never differentiated.

    Args:
        model: Model without gradients; its gradients are reset afterwards.
        batches: Token batches for each tower, on the model's device.
    """
    was_training = model.training
    model.eval()  # no random numbers are drawn
    model(batches).sum().backward()
    found = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return found


def cast_frozen(backbone: nn.Module, compute_type: torch.dtype) -> None:
    """Convert the frozen linear layers to the compute type.

    Otherwise autocast would convert them in every forward pass, with the same rounding. Norms and embeddings
    stay in float32, the type in which autocast computes them.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(compute_type)
