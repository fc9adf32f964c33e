"""Calibration for int8: observe in a forward pass the inputs of linear layers.

Random tokens give the ranges, so that an embedding depends only on its text; a norm bounds its output for any
text, and the output of attention is an average of values, so their range bounds it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.activations import GELUActivation

from aisle.kernels.packed_attention import ATTENTION as PACKED
from aisle.kernels.packed_attention import NATIVE
from aisle.models.tower import Tower
from aisle.text.token_batches import PaddedBatch, TokenBatch

OBSERVED = "aisle_observed_attention"
CALIBRATION_TEXTS = 16
CALIBRATION_TOKENS = 32


@dataclass(frozen=True)
class Values:
    """Values that attention averages.

    Args:
        layer: Name of the linear layer that computes them.
        lowest: (values,) lowest value in each channel.
        highest: (values,) highest value in each channel.
        heads: Number of heads that read the values.
        value_heads: Number of heads of the values; a group of heads may share values.
    """

    layer: str
    lowest: torch.Tensor
    highest: torch.Tensor
    heads: int
    value_heads: int

    def repeated(self, of_values: torch.Tensor) -> torch.Tensor:
        """Return numbers of the values' channels for the channels of attention's output."""
        by_head = of_values.view(self.value_heads, -1)
        return by_head.repeat_interleave(self.heads // self.value_heads, dim=0).flatten()

    def shared(self, of_outputs: torch.Tensor) -> torch.Tensor:
        """Return for each channel of the values the highest number of the outputs that average it."""
        return of_outputs.view(self.value_heads, self.heads // self.value_heads, -1).amax(1).flatten()


@dataclass
class SharedInput:
    """Input of one or more linear layers.

    Args:
        lowest: (in,) lowest value in each channel.
        highest: (in,) highest value in each channel.
        mean: (in,) mean value in each channel.
        normed: Whether the input is the output of a norm.
        after_gelu: Whether the input is the output of GELU.
        values: The values of which the input is an average, if it is the output of attention.
        layers: Names of the layers with this input.
    """

    lowest: torch.Tensor
    highest: torch.Tensor
    mean: torch.Tensor
    normed: bool
    after_gelu: bool
    values: Values | None = None
    layers: list[str] = field(default_factory=list)


class _Observer:
    """Recognise tensors by their address; all are kept, so that no address is used twice."""

    def __init__(self) -> None:
        self.inputs: dict[tuple[int, torch.Size], SharedInput] = {}
        self._kept: list[torch.Tensor] = []
        self._normed: set[int] = set()
        self._gelus: set[int] = set()
        self._attended: dict[int, Values] = {}
        self._outputs: dict[tuple[int, int], str] = {}

    def after_norm(self, output: torch.Tensor) -> None:
        self._kept.append(output)
        self._normed.add(output.data_ptr())

    def after_gelu(self, output: torch.Tensor) -> None:
        self._kept.append(output)
        self._gelus.add(output.data_ptr())

    def after_linear(self, name: str, entry: torch.Tensor, output: torch.Tensor) -> None:
        self._kept += [entry, output]
        place = entry.data_ptr()
        key = place, entry.shape
        if key not in self.inputs:
            rows = entry.flatten(0, -2)
            self.inputs[key] = SharedInput(
                rows.amin(0),
                rows.amax(0),
                rows.mean(0),
                place in self._normed,
                place in self._gelus,
                self._attended.get(place),
            )
        self.inputs[key].layers.append(name)
        self._outputs[output.data_ptr(), output.numel()] = name

    def after_attention(self, value: torch.Tensor, output: torch.Tensor) -> None:
        self._kept += [value, output]
        layer = self._outputs.get((value.data_ptr(), value.numel()))
        if layer is not None:
            by_channel = value.transpose(1, 2).flatten(0, 1).flatten(1)
            self._attended[output.data_ptr()] = Values(
                layer, by_channel.amin(0), by_channel.amax(0), output.shape[2], value.shape[1]
            )


_OBSERVER: ContextVar[_Observer] = ContextVar("observer")
_attentions: Any = AttentionInterface
_masks: Any = AttentionMaskInterface
_NATIVE_ATTENTION: Any = _attentions()[NATIVE]


def observed_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """Return transformers' attention, (texts, tokens, heads, head_dim), and record its values and output."""
    found: tuple[torch.Tensor, None] = _NATIVE_ATTENTION(module, query, key, value, *rest, **options)
    _OBSERVER.get().after_attention(value, found[0])
    return found


AttentionInterface.register(OBSERVED, observed_attention)
AttentionMaskInterface.register(OBSERVED, _masks()[NATIVE])


def observe(tower: Tower, layers: dict[str, nn.Module], batch: TokenBatch) -> list[SharedInput]:
    """Return the inputs of linear layers in a forward pass of a tower.

    Args:
        tower: Tower in evaluation mode, without gradients; a copy, because its attention is replaced.
        layers: Linear layers by name; a layer that is not called has no input.
        batch: Texts to embed.
    """
    seen = _Observer()
    config: Any = tower.backbone.config
    if config._attn_implementation in (NATIVE, PACKED):  # others compute attention in their own code
        config._attn_implementation = OBSERVED
    hooks = [hook for module in tower.modules() for hook in _hooks_of(module, seen)]
    hooks += [
        layer.register_forward_hook(
            lambda _, entries, output, name=name: seen.after_linear(name, entries[0], output)
        )
        for name, layer in layers.items()
    ]
    token = _OBSERVER.set(seen)
    try:
        tower([batch])
    finally:
        _OBSERVER.reset(token)
        for hook in hooks:
            hook.remove()
    return list(seen.inputs.values())


def _hooks_of(module: nn.Module, seen: _Observer) -> list[RemovableHandle]:
    if type(module).__name__.endswith("Norm"):
        return [module.register_forward_hook(lambda _, __, output: seen.after_norm(output))]
    if _is_gelu(module):
        return [module.register_forward_hook(lambda _, __, output: seen.after_gelu(output))]
    return []


def _is_gelu(module: Any) -> bool:
    """Return whether a module is GELU with the exact error function, without an approximation."""
    if type(module) is GELUActivation:
        return module.act is nn.functional.gelu
    return type(module) is nn.GELU and module.approximate == "none"


def random_tokens(vocabulary_size: int, max_length: int) -> PaddedBatch:
    """Return `CALIBRATION_TEXTS` texts of random tokens, always the same texts."""
    size = (CALIBRATION_TEXTS, min(max_length, CALIBRATION_TOKENS))
    ids = np.random.default_rng(0).integers(5, max(vocabulary_size, 6), size=size)
    input_ids = torch.from_numpy(ids)
    return PaddedBatch(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))


def linear_layers(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear layers by name; a layer and its adapter count as a single layer."""
    from peft.tuners.lora import Linear

    within: set[nn.Module] = set()
    for name, module in backbone.named_modules():
        if module in within:
            continue
        adapted = isinstance(module, Linear) and type(module.get_base_layer()) is nn.Linear
        if adapted or type(module) is nn.Linear:
            within.update(module.modules())
            yield name, module


def merged_layer(layer: Any) -> nn.Linear:
    """Return a linear layer with its adapter, if any, merged into the weights."""
    if type(layer) is nn.Linear:
        return layer
    merged: Any = copy.deepcopy(layer)
    if not merged.merged:
        merged.merge()
    base: nn.Linear = merged.get_base_layer()
    return base
