"""The optimiser: AdamW over what is trained."""

from __future__ import annotations

import torch
from torch import nn


def adamw(*modules: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW (https://arxiv.org/abs/1711.05101) over the trained parameters of modules.

    Weight decay falls on matrices only: biases, norms and other vectors are left out.
    """
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)
