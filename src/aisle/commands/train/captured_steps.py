"""Decide whether the passes of a run are captured as CUDA graphs."""

from __future__ import annotations

from typing import Any

from aisle.commands.train.settings import TrainSettings
from aisle.training.launch_support import strategy_of


def why_eager(settings: TrainSettings, accelerator: Any, *, packed: bool, wrapper_sums: bool) -> str | None:
    """Return why a run's passes cannot be captured as CUDA graphs, or None if they can.

    Args:
        settings: Resolved settings.
        accelerator: The run's `Accelerator`.
        packed: Whether the layout packs texts.
        wrapper_sums: Whether the distributed wrapper sums gradients; it does so in its backward pass, which
            a graph does not run.
    """
    optim, strategy = settings.optim, strategy_of(accelerator)
    if accelerator.device.type != "cuda":
        return f"CUDA graphs need an NVIDIA GPU; the device is {accelerator.device.type}"
    if not optim.cuda_graphs:
        return "--no_cuda_graphs"
    if not packed:
        return "texts are padded"
    if strategy == "FSDP2":
        return "FSDP2 gathers weights during a pass"
    if strategy == "DDP" and not settings.lora.use_peft:
        return "DDP sums the gradients of all weights during a pass; --use_peft sums them afterwards"
    if wrapper_sums:
        return "gloo does not connect the processes, so DDP sums gradients during a pass"
    return _why_flags(settings)


def _why_flags(settings: TrainSettings) -> str | None:
    """Return why a flag keeps a run's passes from being captured; None if no flag does."""
    if settings.head.freeze_encoder:
        return "the encoder is frozen, and only the head has a backward pass"
    if settings.towers.freeze is not None:
        return "a tower is frozen, and has no backward pass"
    if settings.optim.torch_compile:
        return "--torch_compile compiles layers again during a pass, for other numbers of tokens"
    if settings.model.gradient_checkpointing:
        return "--gradient_checkpointing restores random numbers during a pass"
    if settings.optim.cached_embeddings:
        return "--cached_embeddings embeds in sub-batches"
    return None
