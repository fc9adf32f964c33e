"""Prepare the towers of a training run: adapter, dropout, frozen weights, device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aisle.commands.speed_notes import kernels_note
from aisle.commands.train.lora_settings import LoraSettings
from aisle.commands.train.settings import TrainSettings
from aisle.kernels.fused_lora import drops_inputs, unfused_reason
from aisle.kernels.joint_lora import reads_other_inputs
from aisle.kernels.residual_norms import fuse_add_norm
from aisle.kernels.triton_support import why_no_triton
from aisle.models.adapters import trainable_share
from aisle.models.bi_encoder import BiEncoder
from aisle.models.cross_encoder import CrossEncoder
from aisle.models.cross_encoder_loading import LoadedCrossEncoder
from aisle.models.half_precision import compute_in_half
from aisle.models.loading import LoadedModel
from aisle.models.prepare_cross_encoder import prepare_cross_encoder
from aisle.models.prepare_model import Lora, frozen_tower, prepare_model
from aisle.models.tower import Tower
from aisle.training.accelerator import set_seed
from aisle.training.launch_support import is_sharded

HEAD_IS_TRAINED = "the classification head is trained too, in float32"
COMPUTE_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def model_to_train(
    settings: TrainSettings,
    base: LoadedModel | LoadedCrossEncoder,
    accelerator: Any,
    *,
    log: Callable[[str], None],
) -> Tower | BiEncoder | CrossEncoder:
    """Return the tower, both towers or the cross-encoder to train, on the device.

    The backbones of the base models are changed.

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
    if not chosen.use_peft and chosen != LoraSettings().complete():
        kind = "frozen encoder" if settings.head.freeze_encoder else "full fine-tuning"
        log(f"{kind}: the LoRA settings are not used without --use_peft")
    set_seed(settings.optim.seed)  # for the first weights of the adapters and the heads
    model = _model(settings, base, accelerator)
    log(str(trainable_share(model)))
    model = model.to(accelerator.device)
    if chosen.use_peft and accelerator.device.type == "cuda":
        slow = _fuse_towers(model, settings, accelerator)
        if slow is not None:
            log(f"LoRA layers are not fused, which is slower: {slow}")
    compute_type = COMPUTE_TYPES.get(accelerator.mixed_precision)
    if accelerator.device.type == "cuda" and compute_type:
        missing = why_no_triton(next(model.parameters()).device, compute_type)
        if missing is not None:
            log(kernels_note(missing))
    return model


def _model(
    settings: TrainSettings, base: LoadedModel | LoadedCrossEncoder, accelerator: Any
) -> Tower | BiEncoder | CrossEncoder:
    """Return the model to train, on the CPU."""
    if isinstance(base, LoadedCrossEncoder):
        return prepare_cross_encoder(base, **_options(settings, accelerator))
    freeze = settings.towers.freeze
    product = _tower(settings, base, accelerator, frozen=freeze == "product")
    if base.query is None:
        return product
    return BiEncoder(_tower(settings, base.query, accelerator, frozen=freeze == "query"), product)


def _fuse_towers(
    model: Tower | BiEncoder | CrossEncoder, settings: TrainSettings, accelerator: Any
) -> str | None:
    """Fuse the LoRA layers of trained towers on a GPU; return why not, else None."""
    if isinstance(model, CrossEncoder):
        return HEAD_IS_TRAINED
    towers = (model,) if isinstance(model, Tower) else model.towers
    trained = [tower for tower in towers if any(one.requires_grad for one in tower.parameters())]
    return next(filter(None, (fuse_on_gpu(tower, settings, accelerator) for tower in trained)), None)


def _options(settings: TrainSettings, accelerator: Any) -> dict[str, Any]:
    """Return the settings with which any model is prepared."""
    rounded = not settings.lora.use_dora and not is_sharded(accelerator)
    return {
        "lora": lora_of(settings.lora),
        "dropout": settings.model.dropout,
        "checkpoint_activations": settings.model.gradient_checkpointing,
        "fuse_adapter": not settings.optim.torch_compile,
        "frozen_type": COMPUTE_TYPES.get(accelerator.mixed_precision) if rounded else None,
    }


def lora_of(settings: LoraSettings) -> Lora | None:
    """Return the adapter to train; None if all weights are trained."""
    if not settings.use_peft:
        return None
    return Lora(
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.lora_dropout,
        target_modules=settings.lora_target_modules,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
    )


def _tower(settings: TrainSettings, base: LoadedModel, accelerator: Any, *, frozen: bool) -> Tower:
    """Return a tower to train, or to keep as it is, on the CPU."""
    options = _options(settings, accelerator)
    if frozen:
        return frozen_tower(base, frozen_type=options["frozen_type"])
    return prepare_model(
        base,
        head=settings.head.options(),
        freeze_encoder=settings.head.freeze_encoder,
        output_dropout=settings.towers.output_dropout,
        **options,
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
