"""Dropout with cheap masks on CPU, where torch draws a random number for every value.

torch takes 2 ns for each value, a sixth of a training step. Here a 64-bit draw of SFC64
(https://numpy.org/doc/stable/reference/random/bit_generators/sfc64.html) decides four values. The draws are
seeded from torch's generator: to repeat them, restoring its state is enough.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

RESOLUTION = 1 << 16


class FastDropout(nn.Dropout):
    """Dropout (https://jmlr.org/papers/v15/srivastava14a.html), to a rate in steps of 1 / 65,536 on CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """Return the input with some numbers set to 0 and the others scaled up, while training."""
        if not self.training or not self.p or input.device.type != "cpu":
            return super().forward(input)
        return input * keep_mask(input.shape, self.p, input.dtype)


_uncompiled: Any = torch.compiler.disable


class UncompiledDropout(FastDropout):
    """Fast dropout that torch.compile does not compile.

    It is a class because layers with functions set on their modules would be compiled separately.
    """

    forward = _uncompiled(FastDropout.forward)


def keep_mask(shape: torch.Size, dropout: float, dtype: torch.dtype) -> torch.Tensor:
    """Return 1 / (1 - dropout) where a number is kept and 0 where it is dropped: (shape), on CPU."""
    count = shape.numel()
    seed = int(torch.randint(1 << 62, ()))
    draws = np.random.Generator(np.random.SFC64(seed)).integers(
        0, 1 << 64, size=-(-count // 4), dtype=np.uint64
    )
    lots = torch.from_numpy(draws).view(torch.int16)[:count]
    kept = torch.empty(count, dtype=dtype)
    torch.ge(lots, round(dropout * RESOLUTION) - RESOLUTION // 2, out=kept)
    return kept.mul_(1 / (1 - dropout)).view(shape)


def use_fast_dropout(backbone: nn.Module) -> None:
    """Replace a backbone's dropout by fast dropout; it has no weights, so the names of weights stay."""
    _replace(backbone, nn.Dropout, FastDropout)


def use_uncompiled_dropout(backbone: nn.Module) -> None:
    """Exclude a backbone's fast dropout from what torch.compile compiles."""
    _replace(backbone, FastDropout, UncompiledDropout)


def _replace(backbone: nn.Module, old: type[nn.Dropout], new: type[nn.Dropout]) -> None:
    for module in backbone.modules():
        for name, child in module.named_children():
            if type(child) is old:
                setattr(module, name, new(child.p).train(child.training))
