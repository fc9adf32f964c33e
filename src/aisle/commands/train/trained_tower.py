"""Prepare the towers of a training run: adapter, dropout, frozen weights, device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aisle.commands.speed_notes import kernels_note
from aisle.commands.train.settings import LoraSettings, TrainSettings
from aisle.kernels.fused_lora import drops_inputs, unfused_reason
from aisle.kernels.joint_lora import reads_other_inputs
from aisle.kernels.residual_norms import fuse_add_norm
from aisle.kernels.triton_support import why_no_triton
from aisle.models.adapters import trainable_share
from aisle.models.bi_encoder import BiEncoder
from aisle.models.half_precision import compute_in_half
from aisle.models.loading import LoadedModel
from aisle.models.prepare_model import Lora, frozen_tower, prepare_model
from aisle.models.tower import Tower
from aisle.training.accelerator import set_seed
from aisle.training.launch_support import is_sharded

COMPUTE_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def model_to_train(
    settings: TrainSettings, base: LoadedModel, accelerator: Any, *, log: Callable[[str], None]
) -> Tower | BiEncoder:
    """Return the tower to train, or both towers, on the device; the base models' backbones are changed.

    Args:
        settings: Complete settings.
        base: The model that training starts from, with that of the query tower, if there is one.
        accelerator: Gives the device, the compute type and the distribution.
        log: Logs notes and the number of trained weights.

    Raises:
        ModelError: The architecture has no gradient checkpointing, or no layer with a name of
            --lora_target_modules; or the towers' embeddings have different dimensions.
    """
    chosen = settings.lora
    if chosen.use_peft and chosen.use_dora and base.query is None:
        log(
            "warning: --use_dora: aisle and PEFT load the run as it was trained; sentence-transformers "
            "leaves out DoRA's magnitudes, so its embeddings are close but not the same"
        )
    if not chosen.use_peft and chosen != LoraSettings():
        kind = "frozen encoder" if settings.head.freeze_encoder else "full fine-tuning"
        log(f"{kind}: the LoRA settings are not used without --use_peft")
    set_seed(settings.optim.seed)  # for the first weights of the adapters and the heads
    freeze = settings.towers.freeze
    product = _tower(settings, base, accelerator, frozen=freeze == "product")
    model: Tower | BiEncoder = product
    if base.query is not None:
        model = BiEncoder(_tower(settings, base.query, accelerator, frozen=freeze == "query"), product)
    log(str(trainable_share(model)))
    model = model.to(accelerator.device)
    if chosen.use_peft and accelerator.device.type == "cuda":
        trained = [tower for tower in _towers(model) if any(one.requires_grad for one in tower.parameters())]
        slow = next(filter(None, (fuse_on_gpu(tower, settings, accelerator) for tower in trained)), None)
        if slow is not None:
            log(f"LoRA layers are not fused, which is slower: {slow}")
    compute_type = COMPUTE_TYPES.get(accelerator.mixed_precision)
    if accelerator.device.type == "cuda" and compute_type:
        missing = why_no_triton(next(model.parameters()).device, compute_type)
        if missing is not None:
            log(kernels_note(missing))
    return model


def _towers(model: Tower | BiEncoder) -> tuple[Tower, ...]:
    return (model,) if isinstance(model, Tower) else model.towers


def _tower(settings: TrainSettings, base: LoadedModel, accelerator: Any, *, frozen: bool) -> Tower:
    """Return a tower to train, or to keep as it is, on the CPU."""
    chosen = settings.lora
    rounded = not chosen.use_dora and not is_sharded(accelerator)
    frozen_type = COMPUTE_TYPES.get(accelerator.mixed_precision) if rounded else None
    if frozen:
        return frozen_tower(base, frozen_type=frozen_type)
    lora = Lora(
        rank=chosen.lora_rank,
        alpha=chosen.lora_alpha,
        dropout=chosen.lora_dropout,
        target_modules=chosen.lora_target_modules,
        use_dora=chosen.use_dora,
        use_rslora=chosen.use_rslora,
    )
    return prepare_model(
        base,
        lora=lora if chosen.use_peft else None,
        head=settings.head.options(),
        freeze_encoder=settings.head.freeze_encoder,
        dropout=settings.model.dropout,
        checkpoint_activations=settings.model.gradient_checkpointing,
        fuse_adapter=not settings.optim.torch_compile,
        frozen_type=frozen_type,
        output_dropout=settings.towers.output_dropout,
    )


def fuse_on_gpu(tower: Tower, settings: TrainSettings, accelerator: Any) -> str | None:
    """Fuse the LoRA layers of a tower and let it compute in half precision; return why not, else None.

    On a CPU, bf16 stays with autocast, which has not been measured to be slower there.
    """
    compute_type = COMPUTE_TYPES.get(accelerator.mixed_precision)
    if settings.optim.torch_compile:
        return "--torch_compile compiles PEFT's own layers; leave it out"
    if is_sharded(accelerator):
        return "FSDP2 shards their frozen weights; DDP does not (configs/accelerate/several_gpus.yaml)"
    backbone = tower.backbone
    reason = compute_in_half(tower, compute_type) if compute_type else unfused_reason(backbone)
    if reason is None and compute_type:
        fuse_add_norm(backbone)
    if reason is None and drops_inputs(backbone):
        return "each of them drops other inputs; --lora_dropout 0 fuses them"
    if reason is None and reads_other_inputs(backbone):
        return "layers that are fused elsewhere read different inputs here, as in cross-attention"
    return reason
