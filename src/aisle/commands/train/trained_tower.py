"""Prepare the tower of a training run: adapter, dropout, frozen weights, device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aisle.commands.train.settings import LoraSettings, TrainSettings
from aisle.models.adapters import trainable_share
from aisle.models.loading import LoadedModel
from aisle.models.prepare_model import Lora, prepare_model
from aisle.models.tower import Tower
from aisle.training.accelerator import set_seed
from aisle.training.launch_support import is_sharded

COMPUTE_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def tower_to_train(
    settings: TrainSettings, base: LoadedModel, accelerator: Any, *, log: Callable[[str], None]
) -> Tower:
    """Return the tower to train, on its device; the base model's backbone is changed.

    Args:
        settings: Complete settings.
        base: The model that training starts from.
        accelerator: Gives the device, the compute type and the distribution.
        log: Logs notes and the number of trained weights.

    Raises:
        ModelError: The architecture has no gradient checkpointing, or no layer with a name of
            --lora_target_modules.
    """
    chosen = settings.lora
    if chosen.use_peft and chosen.use_dora:
        log(
            "warning: --use_dora: aisle and PEFT load the run as it was trained; sentence-transformers "
            "leaves out DoRA's magnitudes, so its embeddings are close but not the same"
        )
    if not chosen.use_peft and chosen != LoraSettings():
        log("full fine-tuning: the LoRA settings are not used without --use_peft")
    lora = Lora(
        rank=chosen.lora_rank,
        alpha=chosen.lora_alpha,
        dropout=chosen.lora_dropout,
        target_modules=chosen.lora_target_modules,
        use_dora=chosen.use_dora,
        use_rslora=chosen.use_rslora,
    )
    rounded = not chosen.use_dora and not is_sharded(accelerator)
    set_seed(settings.optim.seed)  # for the adapter's first weights
    tower = prepare_model(
        base,
        lora=lora if chosen.use_peft else None,
        dropout=settings.model.dropout,
        checkpoint_activations=settings.model.gradient_checkpointing,
        fuse_adapter=not settings.optim.torch_compile,
        frozen_type=COMPUTE_TYPES.get(accelerator.mixed_precision) if rounded else None,
    )
    log(str(trainable_share(tower)))
    return tower.to(accelerator.device)
