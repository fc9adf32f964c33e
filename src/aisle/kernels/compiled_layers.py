"""Compile a backbone layer by layer: torch.compile fuses the operations around the attention.

Each layer is compiled separately. Equal layers share their code, so this takes a fraction of the time that
the whole backbone would take. The attention over packed texts is not compiled: it would be compiled again for
every combination of lengths. (Regional compilation,
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
    """Compile the layers of a backbone in place, each at its first call; weights keep their names.

    Args:
        backbone: Any `AutoModel`, with or without an adapter.
        device: Device of the backbone.
        backend: Name of a compiler of torch, see `compilers`.
    """
    if device.type == "cpu":
        use_uncompiled_dropout(backbone)
    for layer in repeated_layers(backbone):
        layer.compile(dynamic=True, backend=backend)


def compilers() -> list[str]:
    """Return the names of torch's compilers, including those for debugging."""
    dynamo: Any = importlib.import_module("torch._dynamo")
    return sorted(dynamo.list_backends(exclude_tags=()))


def repeated_layers(backbone: nn.Module) -> list[nn.Module]:
    """Return the stacked layers of a backbone, or the backbone itself if it has no stack of layers."""
    return list(_repeated(backbone)) or [backbone]


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len({type(layer) for layer in child}) == 1:
            yield from child
        else:
            yield from _repeated(child)
