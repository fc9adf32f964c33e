"""The optimiser: AdamW over the trained weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def adamw(
    *modules: nn.Module, learning_rate: float, weight_decay: float, fused_on_cpu: bool = False
) -> torch.optim.AdamW:
    """Return AdamW (https://arxiv.org/abs/1711.05101) over the trained parameters of some modules.

    Weight decay applies to matrices only, and not to biases, norms and other vectors. On a GPU a step is a
    launch for many weights, and the host does not wait for it: where gradients of fp16 overflow, the step is
    skipped on the device.

    Args:
        modules: Modules with the parameters.
        learning_rate: Highest learning rate.
        weight_decay: Weight decay of matrices.
        fused_on_cpu: Whether a step on CPU is a single pass over the weights, which takes half the time and
            rounds differently.
    """
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    devices = {p.device.type for p in trained}
    fused = True if devices == {"cuda"} or (fused_on_cpu and devices == {"cpu"}) else None
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=learning_rate, fused=fused
    )
    optimizer.register_load_state_dict_pre_hook(_keep_fused)
    return optimizer


def _keep_fused(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's state with this optimiser's `fused`, which depends on the device."""
    own = optimizer.param_groups
    groups = [
        group | {"fused": mine["fused"]} for group, mine in zip(state["param_groups"], own, strict=True)
    ]
    return state | {"param_groups": groups}
