"""Let a tower compute in half precision by itself, without autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from aisle.kernels.device_faults import FAULTS
from aisle.kernels.fused_lora import unfused_reason
from aisle.kernels.joint_lora import join_lora
from aisle.kernels.packed_attention import shared_copy
from aisle.kernels.residual_norms import fuse_add_norm
from aisle.models.adapters import ATTENTION_PROJECTIONS
from aisle.models.backbone import vocabulary_size
from aisle.models.tower import Tower

FAMILIES = (*ATTENTION_PROJECTIONS, ("gate_proj", "up_proj"))
"""Names of layers that read the same input."""
TRIED_TOKENS = 8
LARGEST_ERROR = 0.2
"""Largest error of a token vector, relative to its length. Rounding is far below, at a few hundredths."""


def compute_in_half(tower: Tower, compute_type: torch.dtype) -> str | None:
    """Make a tower compute in half precision without autocast; return why not, else None.

    All frozen weights and activations of the backbone then have the compute type, and LoRA layers that read
    the same input are computed jointly. Autocast would cast activations in every layer, to float32 for norms
    and back. Trained weights, pooling and heads stay in float32.

    Args:
        tower: Tower on its device. It is changed only if it then computes the same up to rounding.
        compute_type: bfloat16 or float16.

    Returns:
        The reason for autocast, as the end of a sentence; None if the tower computes by itself now.
    """
    backbone: Any = tower.backbone
    reason = unfused_reason(backbone)
    if reason is not None:
        return reason
    frozen = [one for one in backbone.parameters() if not one.requires_grad and one.is_floating_point()]
    before = [one.data for one in frozen]
    with _without_dropout(backbone):
        with torch.no_grad(), torch.autocast(frozen[0].device.type, dtype=compute_type):
            expected = _tried(backbone)
        for parameter in frozen:
            parameter.data = parameter.data.to(compute_type)
        undo = join_lora(backbone, FAMILIES)
        if _computes(backbone, expected):
            tower.compute_type = compute_type
            return None
    undo()
    for parameter, data in zip(frozen, before, strict=True):
        parameter.data = data
    return _needs_autocast(backbone.get_base_model(), compute_type)


def half_copy(tower: Tower, compute_type: torch.dtype) -> tuple[Tower, str | None]:
    """Return a copy for inference that computes in half precision without autocast, and why not, else None.

    All weights of the copy's backbone have the compute type, which takes half the memory of the tower's, and
    norms are fused. Autocast would compute norms and residuals in float32, and cast them for every product.

    Args:
        tower: Tower in float32, in evaluation mode; it is not changed.
        compute_type: bfloat16 or float16.

    Returns:
        The copy; the tower itself with the reason if it does not compute in half precision without autocast.
    """
    with torch.inference_mode(False), torch.no_grad():
        copied = shared_copy(tower).eval()
        backbone: Any = copied.backbone
        _convert_weights(backbone, compute_type)
        device = next(tower.parameters()).device
        with torch.autocast(device.type, dtype=compute_type):
            expected = _tried(tower.backbone)
        with torch.autocast(device.type, enabled=False):
            if not _computes(backbone, expected):
                return tower, _needs_autocast(backbone, compute_type)
        fuse_add_norm(backbone)
    copied.compute_type = compute_type
    return copied, None


def _needs_autocast(backbone: nn.Module, compute_type: torch.dtype) -> str:
    return f"{type(backbone).__name__} does not compute in {str(compute_type)[6:]} by itself"


def _convert_weights(backbone: nn.Module, compute_type: torch.dtype) -> None:
    """Replace the weights of a backbone by weights of another type, without gradients."""
    converted: dict[nn.Parameter, nn.Parameter] = {}
    for module in backbone.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.is_floating_point():
                if weight not in converted:  # layers may share a weight
                    converted[weight] = nn.Parameter(weight.to(compute_type), requires_grad=False)
                setattr(module, name, converted[weight])


def weights_version(tower: Tower) -> int:
    """Return a number that grows when a weight is changed in place."""
    return sum(0 if one.is_inference() else one._version for one in tower.parameters())


def _computes(backbone: nn.Module, expected: torch.Tensor) -> bool:
    """Return whether a backbone gives the expected vectors, and then gradients if it is trained."""
    trained = [one for one in backbone.parameters() if one.requires_grad]
    try:
        found = _tried(backbone)
        if trained:
            torch.autograd.grad(found.sum(), trained, allow_unused=True)
    except RuntimeError as refusal:
        if isinstance(refusal, FAULTS):
            raise
        return False  # layers of two types: an architecture may compute some things in float32 itself
    error = (found.detach() - expected).norm(dim=1) / expected.norm(dim=1)
    return bool((error <= LARGEST_ERROR).all())


def _tried(backbone: Any) -> torch.Tensor:
    """Return the vectors of a few tokens: (tokens, dim) float32."""
    ids = np.random.default_rng(0).integers(5, max(vocabulary_size(backbone), 6), size=(1, TRIED_TOKENS))
    tokens = torch.from_numpy(ids).to(next(backbone.parameters()).device)
    output = backbone(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    vectors: torch.Tensor = output.last_hidden_state[0].float()
    return vectors


@contextmanager
def _without_dropout(backbone: nn.Module) -> Iterator[None]:
    was_training = backbone.training
    backbone.eval()
    try:
        yield
    finally:
        backbone.train(was_training)
