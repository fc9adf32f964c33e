"""Choose how the texts of a run are arranged in batches: packed if the model allows it, otherwise padded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from aisle.commands.speed_notes import padding_note, with_remedy
from aisle.commands.train.settings import TrainSettings
from aisle.commands.train.trained_tower import COMPUTE_TYPES
from aisle.models.bi_encoder import BiEncoder
from aisle.models.cross_encoder import CrossEncoder
from aisle.models.cross_encoder_loading import LoadedCrossEncoder
from aisle.models.loading import LoadedModel
from aisle.models.tower import Tower
from aisle.text.batch_layout import WHOLE_BATCH, Layout, device_layout
from aisle.text.tokens import SIDES
from aisle.training.launch_support import is_sharded


def choose_layout(
    tower: Tower | BiEncoder | CrossEncoder,
    settings: TrainSettings,
    base: LoadedModel | LoadedCrossEncoder,
    accelerator: Any,
    *,
    log: Callable[[str], None],
) -> tuple[Layout, str | None]:
    """Return the layout of a run's batches, and why texts are padded, None if they are packed.

    Args:
        tower: Tower to train, or both towers, on their device.
        settings: Resolved settings.
        base: The base model.
        accelerator: Accelerator of the run.
        log: Logs messages for the user.
    """
    compute_type = COMPUTE_TYPES.get(accelerator.mixed_precision, torch.float32)
    padded_because = _why_padded(tower, base, compute_type)
    if padded_because is not None:
        padded_because = with_remedy(padded_because, "give --mixed_precision bf16")
        log(padding_note(padded_because))
    layout = device_layout(
        accelerator.device,
        packed=padded_because is None,
        pad_token_id=base.tokenizer.pad_token_id,
        max_tokens=settings.optim.max_tokens_per_sub_batch,
        separate_sides=tower.separate_sides,
    )
    if base.query is not None:
        layout = replace(layout, query_pad_token_id=base.query.tokenizer.pad_token_id)
    if is_sharded(accelerator):
        # Every rank takes part in gathering sharded layers, so all ranks must run them equally often.
        layout = replace(layout, max_tokens=WHOLE_BATCH, group_cost=WHOLE_BATCH)
    return layout, padded_because


def _why_padded(
    model: Tower | BiEncoder | CrossEncoder,
    base: LoadedModel | LoadedCrossEncoder,
    compute_type: torch.dtype,
) -> str | None:
    """Return why texts of a side are padded; None if all towers read packed texts."""
    if not isinstance(model, BiEncoder) or isinstance(base, LoadedCrossEncoder):
        return model.why_padded(compute_type, max_length=base.settings.max_length)
    reasons = (
        model.tower(side).why_padded(compute_type, max_length=base.of(side).settings.max_length)
        for side in SIDES
    )
    return next((reason for reason in reasons if reason is not None), None)
