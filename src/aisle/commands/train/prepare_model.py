"""The model of a training run: dropout, adapter, compute type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aisle.commands.train.settings import LoraSettings, TrainSettings
from aisle.errors import ModelError
from aisle.kernels.fast_dropout import use_fast_dropout
from aisle.kernels.fused_lora import fuse_lora
from aisle.models.adapters import attach_lora, attach_trained_lora, trainable_share
from aisle.models.loading import LoadedModel
from aisle.models.prepare_backbone import cast_frozen, freeze_pooler, set_dropout
from aisle.models.tower import Tower
from aisle.training.accelerator import set_seed
from aisle.training.launch_support import is_sharded

COMPUTE_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def make_trained_model(
    settings: TrainSettings, base: LoadedModel, accelerator: Any, *, log: Callable[[str], None]
) -> Tower:
    """Return the embedder that is trained, on its device; the base model's backbone is changed.

    Args:
        settings: with nothing left open.
        base: the base model.
        accelerator: its device, compute type and distribution.
        log: Called with messages for the user.

    Raises:
        ModelError: the architecture has no gradient checkpointing, or no layer of the names that
            --lora_target_modules gives.
    """
    set_seed(settings.optim.seed)  # the adapter's first weights
    backbone: Any = base.backbone
    if settings.model.gradient_checkpointing:
        _checkpoint_activations(backbone)
    if settings.model.dropout is not None:
        set_dropout(backbone, settings.model.dropout)
    use_fast_dropout(backbone)
    freeze_pooler(backbone)
    lora = settings.lora
    reference, revision = base.source.reference, base.source.revision
    if lora.use_peft and base.adapter is not None:
        folder = base.adapter.run.path
        backbone = attach_trained_lora(
            backbone,
            folder,
            dropout=lora.lora_dropout,
            base_reference=reference,
            base_revision=revision,
        )
    elif lora.use_peft:
        backbone = attach_lora(
            backbone,
            rank=lora.lora_rank,
            alpha=lora.lora_alpha,
            dropout=lora.lora_dropout,
            target_modules=lora.lora_target_modules,
            use_dora=lora.use_dora,
            use_rslora=lora.use_rslora,
            base_reference=reference,
            base_revision=revision,
        )
    if lora.use_peft and lora.use_dora:
        log(
            "warning: --use_dora: aisle and PEFT read the run as it was trained; sentence-transformers "
            "leaves out DoRA's magnitudes, so that its embeddings are close, and not the same"
        )
    if lora.use_peft and not settings.optim.torch_compile:
        fuse_lora(backbone)
    if not lora.use_peft and lora != LoraSettings():
        log("full fine-tuning: the LoRA settings are not used without --use_peft")
    log(str(trainable_share(backbone)))
    compute_type = COMPUTE_TYPES.get(accelerator.mixed_precision)
    # DoRA measures the frozen weights themselves, so it wants them unrounded.
    if compute_type is not None and lora.use_peft and not lora.use_dora and not is_sharded(accelerator):
        cast_frozen(backbone, compute_type)
    embedder = Tower(backbone, pooling=base.settings.pooling, normalize=base.settings.normalize)
    return embedder.to(accelerator.device)


def _checkpoint_activations(backbone: Any) -> None:
    # The name before transformers 5.20 was gradient_checkpointing_enable.
    enable = getattr(backbone, "activation_checkpointing_enable", None)
    try:
        (enable or backbone.gradient_checkpointing_enable)({"use_reentrant": False})
    except (ValueError, NotImplementedError, AttributeError):
        raise ModelError(
            f"--gradient_checkpointing: {type(backbone).__name__} has none. To train in less memory use "
            "--cached_embeddings, with a lower --max_tokens_per_sub_batch if need be"
        ) from None
