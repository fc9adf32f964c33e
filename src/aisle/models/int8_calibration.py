"""Calibration for int8: observe in a forward pass the inputs of linear layers and their activations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.activations import GELUActivation

from aisle.models.tower import Tower
from aisle.text.token_batches import TokenBatch


@dataclass
class SharedInput:
    """Input of one or more linear layers.

    Args:
        lowest: (in,) lowest value in each channel.
        highest: (in,) highest value in each channel.
        normed: Whether the input is the output of a norm.
        after_gelu: Whether the input is the output of GELU.
        layers: Names of the layers with this input.
        gelus: GELU after each layer, by the layer's name, if it takes the whole output and is called once.
    """

    lowest: torch.Tensor
    highest: torch.Tensor
    normed: bool
    after_gelu: bool
    layers: list[str] = field(default_factory=list)
    gelus: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def largest(self) -> torch.Tensor:
        """Largest magnitude in each channel: (in,)."""
        return torch.maximum(self.highest, -self.lowest)


class _Observer:
    """Recognise tensors by their address; all are kept, so that no address is used twice."""

    def __init__(self) -> None:
        self.inputs: dict[tuple[int, torch.Size], SharedInput] = {}
        self.calls: Counter[nn.Module] = Counter()
        self._kept: list[torch.Tensor] = []
        self._normed: set[int] = set()
        self._gelus: set[int] = set()
        self._writers: dict[tuple[int, torch.Size], tuple[str, SharedInput]] = {}

    def after_norm(self, output: torch.Tensor) -> None:
        self._kept.append(output)
        self._normed.add(output.data_ptr())

    def after_linear(self, name: str, entry: torch.Tensor, output: torch.Tensor) -> None:
        self._kept += [entry, output]
        place = entry.data_ptr()
        key = place, entry.shape
        if key not in self.inputs:
            rows = entry.flatten(0, -2)
            self.inputs[key] = SharedInput(
                rows.amin(0), rows.amax(0), place in self._normed, place in self._gelus
            )
        self.inputs[key].layers.append(name)
        self._writers[output.data_ptr(), output.shape] = name, self.inputs[key]

    def after_gelu(self, activation: nn.Module, entry: torch.Tensor, output: torch.Tensor) -> None:
        self._kept += [entry, output]
        self._gelus.add(output.data_ptr())
        self.calls[activation] += 1
        # Compare the shape too: a part of an output may have the same address as the whole.
        writer = self._writers.get((entry.data_ptr(), entry.shape))
        if writer is not None:
            name, shared = writer
            shared.gelus[name] = activation


def observe(tower: Tower, layers: dict[str, nn.Module], batch: TokenBatch) -> list[SharedInput]:
    """Return the inputs of linear layers in a forward pass of a tower.

    Args:
        tower: Tower in evaluation mode, without gradients.
        layers: Linear layers by name; a layer that is not called has no input.
        batch: Texts to embed.
    """
    seen = _Observer()
    hooks = [hook for module in tower.modules() for hook in _hooks_of(module, seen)]
    hooks += [
        layer.register_forward_hook(
            lambda _, entries, output, name=name: seen.after_linear(name, entries[0], output)
        )
        for name, layer in layers.items()
    ]
    try:
        tower([batch])
    finally:
        for hook in hooks:
            hook.remove()
    for shared in seen.inputs.values():
        shared.gelus = {name: one for name, one in shared.gelus.items() if seen.calls[one] == 1}
    return list(seen.inputs.values())


def _hooks_of(module: nn.Module, seen: _Observer) -> list[RemovableHandle]:
    if type(module).__name__.endswith("Norm"):
        return [module.register_forward_hook(lambda _, __, output: seen.after_norm(output))]
    if _is_gelu(module):
        return [
            module.register_forward_hook(
                lambda one, entries, output: seen.after_gelu(one, entries[0], output)
            )
        ]
    return []


def _is_gelu(module: Any) -> bool:
    """Return whether a module is GELU with the exact error function, without an approximation."""
    if type(module) is GELUActivation:
        return module.act is nn.functional.gelu
    return type(module) is nn.GELU and module.approximate == "none"
