"""Prepare a cross-encoder for training, and make the whole model from the weights that were trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from aisle.kernels.fast_dropout import use_fast_dropout
from aisle.kernels.fused_lora import fuse_lora
from aisle.models.adapters import attach_lora
from aisle.models.classification_heads import head_modules
from aisle.models.cross_encoder import CrossEncoder
from aisle.models.cross_encoder_loading import LoadedCrossEncoder, load_cross_encoder
from aisle.models.prepare_model import Lora, cast_frozen, keep_few_activations, set_dropout


def prepare_cross_encoder(
    loaded: LoadedCrossEncoder,
    *,
    lora: Lora | None,
    dropout: float | None = None,
    checkpoint_activations: bool = False,
    fuse_adapter: bool = False,
    frozen_type: torch.dtype | None = None,
) -> CrossEncoder:
    """Return the cross-encoder to train, on the CPU; this changes the loaded model.

    Args:
        loaded: Model that training starts from.
        lora: Adapter to train together with the classification head; None trains all weights.
        dropout: Dropout in the model; None keeps the model's rates.
        checkpoint_activations: Whether to recompute activations in the backward pass, to save memory.
        fuse_adapter: Whether to compute LoRA layers in a single operation; not with torch.compile.
        frozen_type: Number type of frozen linear layers; None means float32.

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
    if lora is not None:
        backbone = _with_adapter(loaded, lora)
        if fuse_adapter:
            fuse_lora(backbone)
        if frozen_type is not None:
            cast_frozen(backbone, frozen_type)
    return CrossEncoder(backbone)


def whole_model(
    loaded: LoadedCrossEncoder,
    weights: Mapping[str, torch.Tensor],
    *,
    lora: Lora | None,
    trust_remote_code: bool = False,
) -> nn.Module:
    """Return transformers' model for sequence classification with trained weights, an adapter merged into it.

    It is loaded from its files again: the model that was trained has changed layers, and may be sharded.

    Args:
        loaded: Model that training started from.
        weights: Trained weights, by their names in the trained cross-encoder.
        lora: Adapter that was trained; None if all weights were.
        trust_remote_code: Whether to run Python code from the base model's repository.
    """
    fresh = load_cross_encoder(
        loaded.source,
        max_length=loaded.settings.max_length,
        new_head_seed=loaded.seed,
        trust_remote_code=trust_remote_code,
    )
    backbone: Any = fresh.backbone if lora is None else _with_adapter(fresh, lora)
    CrossEncoder(backbone).load_state_dict(weights, strict=False)
    return backbone if lora is None else _merged(backbone)


def _with_adapter(loaded: LoadedCrossEncoder, lora: Lora) -> Any:
    """Return the model with an adapter, and a classification head that is trained whole."""
    model: Any = loaded.backbone
    heads = head_modules(model)
    names = [name for name, module in model.named_modules() if any(module is head for head in heads)]
    adapted = attach_lora(
        model,
        **vars(lora),
        base_reference=loaded.source.reference,
        base_revision=loaded.source.revision,
        excluded="|".join(rf"{re.escape(name)}(\..*)?" for name in names),
    )
    for head in heads:
        head.requires_grad_(True)
    return adapted


def _merged(adapted: Any) -> nn.Module:
    merged: nn.Module = adapted.merge_and_unload()
    return merged
