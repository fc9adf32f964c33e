"""torch.compile, layer by layer: what surrounds the attention becomes few operations.

A layer is compiled on its own: layers that are alike share their code, so that it takes a fraction of the
time for the whole backbone, and the attention over packed texts, which is other code for every division of
lengths, stays what it is. (Regional compilation,
https://docs.pytorch.org/tutorials/recipes/regional_compilation.html)
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from aisle.kernels.fast_dropout import use_uncompiled_dropout


def compile_layers(backbone: nn.Module, device: torch.device, *, backend: str = "inductor") -> None:
    """Compile the layers of a backbone, in place, at the first call of each; names of weights stay.

    Args:
        backbone: any `AutoModel`, with or without an adapter.
        device: where it computes.
        backend: torch's compiler, one of `compilers()`.
    """
    if device.type == "cpu":
        use_uncompiled_dropout(backbone)
    for layer in repeated_layers(backbone):
        layer.compile(dynamic=True, backend=backend)


def compilers() -> list[str]:
    """Return the names of the compilers that torch knows, those for debugging among them."""
    dynamo: Any = importlib.import_module("torch._dynamo")
    return sorted(dynamo.list_backends(exclude_tags=()))


def repeated_layers(backbone: nn.Module) -> list[nn.Module]:
    """Return the layers that a backbone is a stack of; the backbone itself where it is none."""
    return list(_repeated(backbone)) or [backbone]


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len({type(layer) for layer in child}) == 1:
            yield from child
        else:
            yield from _repeated(child)
