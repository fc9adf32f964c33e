"""Dropout with cheap masks on CPU.

torch draws a random number for every value; this takes 2 ns a value, and a sixth of a training step. Here a
64-bit draw of SFC64 (https://numpy.org/doc/stable/reference/random/bit_generators/sfc64.html) decides four
values. The draws are seeded from torch's generator, so restoring its state repeats them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

RESOLUTION = 1 << 16


class FastDropout(nn.Dropout):
    """Dropout (https://jmlr.org/papers/v15/srivastava14a.html); on CPU its rate is rounded to 1 / 65,536."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """In training mode, set random values to 0 and scale up the others."""
        if not self.training or not self.p or input.device.type != "cpu":
            return super().forward(input)
        return input * keep_mask(input.shape, self.p, input.dtype)


_uncompiled: Any = torch.compiler.disable


class UncompiledDropout(FastDropout):
    """Fast dropout that torch.compile does not compile.

    It is a class, because torch.compile would compile each layer separately if functions were set on its
    modules.
    """

    forward = _uncompiled(FastDropout.forward)


def keep_mask(shape: torch.Size, dropout: float, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask on CPU: 1 / (1 - dropout) where a value is kept, 0 where it is dropped."""
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
    """Replace a backbone's dropout with fast dropout; dropout has no weights, so weights keep their names."""
    _replace(backbone, nn.Dropout, FastDropout)


def use_uncompiled_dropout(backbone: nn.Module) -> None:
    """Exclude a backbone's fast dropout from torch.compile."""
    _replace(backbone, FastDropout, UncompiledDropout)


def _replace(backbone: nn.Module, old: type[nn.Dropout], new: type[nn.Dropout]) -> None:
    for module in backbone.modules():
        for name, child in module.named_children():
            if type(child) is old:
                setattr(module, name, new(child.p).train(child.training))
