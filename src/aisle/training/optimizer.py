"""The optimiser: AdamW over the trained weights."""

from __future__ import annotations

import torch
from torch import nn


def adamw(*modules: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW (https://arxiv.org/abs/1711.05101) over the trained parameters of the modules.

    Weight decay applies to matrices only, not to biases, norms and other vectors.
    """
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)
