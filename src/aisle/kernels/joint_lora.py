"""Query, key and value with their LoRA adapters as one product, in half precision.

Layers that read the same input are computed together: one product with their stacked frozen weights, and one
product of low rank for all their adapters. PEFT computes three products for each layer, and casts A and B of
each layer in every call. Here A and B stay float32 parameters of PEFT's layers, and their copies in half
precision are refreshed once in each forward pass of the backbone, in a few launches for all layers.

Nothing here waits for the device or depends on the number of the step, so CUDA graphs can capture it.
(LoRA: https://arxiv.org/abs/2106.09685)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from aisle.kernels.fused_lora import dropout_of, lora_layers, matrices_of, scaling_of
from aisle.kernels.joint_linear import LoraGroup


def join_lora(backbone: nn.Module, families: Sequence[Sequence[str]]) -> Callable[[], None]:
    """Make the LoRA layers of a backbone compute jointly; return a function that undoes it.

    A layer with LoRA dropout is computed by itself, because each layer drops other numbers of the input. The
    backbone then computes in one thread at a time.

    Args:
        backbone: Backbone with plain LoRA layers (see `unfused_reason`) and all frozen weights in one number
            type; call it without autocast.
        families: Names of layers of one module that read the same input, such as query, key and value.
    """
    groups = [LoraGroup(layers) for layers in _siblings(backbone, families)]
    refresh = AdapterCopies([group for group in groups if not group.apart])
    hook = backbone.register_forward_pre_hook(refresh)
    before = []
    for group in groups:
        for number, layer in enumerate(group.layers):
            before.append((layer, layer.forward))
            layer.forward = partial(_forward, group, number, layer.forward)

    def undo() -> None:
        hook.remove()
        for layer, forward in before:
            layer.forward = forward

    return undo


def reads_other_inputs(backbone: nn.Module) -> bool:
    """Return whether layers of a group read different inputs, so that each is computed by itself.

    A pass of the backbone shows it; `join_lora` only knows their names.
    """
    forwards = (layer.forward for layer in lora_layers(backbone))
    groups = [one.args[0] for one in forwards if isinstance(one, partial) and one.func is _forward]
    return any(group.apart and len(group.layers) > 1 for group in groups)


class AdapterCopies:
    """Copies of every A and B in the backbone's number type; a hook that refreshes them before each pass.

    Args:
        groups: All groups of the backbone.
    """

    def __init__(self, groups: Sequence[LoraGroup]) -> None:
        self.groups = sorted(groups, key=lambda group: group.rank)  # those of one rank share their blocks
        self._parameters: list[torch.Tensor] = [
            pair[i] for i in (0, 1) for group in self.groups for pair in group.matrices
        ]
        self._copies: list[torch.Tensor] = []
        self._blocks: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __call__(self, backbone: nn.Module, arguments: Any) -> None:
        """Refresh the copies; make them if the backbone has moved or is called for the first time."""
        if not self.groups:
            return
        for group in self.groups:
            group.forget()
        if not self._fit():
            self._make()
        with torch.no_grad():
            torch._foreach_copy_(self._copies, self._parameters)
            for blocks, diagonal, rows in self._blocks:
                blocks.index_copy_(0, diagonal, rows)

    def _fit(self) -> bool:
        if not self._copies:
            return False
        weight, copy = self.groups[0].bases[0].weight, self._copies[0]
        same = (weight.device, weight.dtype) == (copy.device, copy.dtype)
        return same and all(group.is_stacked for group in self.groups)

    @torch.inference_mode(False)  # what is made in inference mode cannot be trained with
    @torch.no_grad()
    def _make(self) -> None:
        """Stack the frozen weights, and allocate the copies."""
        for group in self.groups:
            group.stack()
            weight, (a, _) = group.bases[0].weight, group.matrices[0]
            group.a = weight.new_empty(len(group.layers) * group.rank, weight.shape[1])
            group.scale = torch.full((1,), group.scaling, dtype=a.dtype, device=a.device)
        self._copies = [part for group in self.groups for part in torch.split(group.a, group.rank)]
        self._blocks = []
        for rank in sorted({group.rank for group in self.groups}):
            self._make_blocks([group for group in self.groups if group.rank == rank], rank)

    def _make_blocks(self, groups: Sequence[LoraGroup], rank: int) -> None:
        """Allocate the copies of every B of a rank: contiguous ones to copy to, and those on the diagonals.

        A copy to a contiguous tensor of another type is a launch for many tensors. One more launch then puts
        the rows of all groups on the diagonals.
        """
        weight = groups[0].bases[0].weight
        outputs = [sum(group.sizes) for group in groups]
        rows = weight.new_empty(sum(outputs), rank)
        self._copies += torch.split(rows, [size for group in groups for size in group.sizes])
        lengths = [count * len(group.layers) for count, group in zip(outputs, groups, strict=True)]
        blocks = weight.new_zeros(sum(lengths), rank)
        before, diagonals = 0, []
        for group, block in zip(groups, torch.split(blocks, lengths), strict=True):
            count = len(group.layers)
            layer = torch.repeat_interleave(torch.arange(count), torch.tensor(group.sizes))
            diagonal = (torch.arange(len(layer)) * count + layer).to(weight.device)
            group.b, group.diagonal = block.view(len(layer), count * rank), diagonal
            diagonals.append(diagonal + before)
            before += len(block)
        self._blocks.append((blocks, torch.cat(diagonals), rows))


def _siblings(backbone: nn.Module, families: Sequence[Sequence[str]]) -> Iterator[list[Any]]:
    """Yield the LoRA layers in groups that read the same input and can be computed together."""
    layers = lora_layers(backbone)
    grouped: set[int] = set()
    known = {id(layer) for layer in layers}
    for module in backbone.modules():
        children = dict(module.named_children())
        for family in families:
            found = [children[name] for name in family if id(children.get(name)) in known]
            alike: dict[Any, list[Any]] = {}
            for layer in found:
                if id(layer) not in grouped and dropout_of(layer) is None:
                    alike.setdefault(_kind(layer), []).append(layer)
            for group in alike.values():
                grouped.update(map(id, group))
                yield group
    yield from ([layer] for layer in layers if id(layer) not in grouped)


def _kind(layer: Any) -> tuple[object, ...]:
    """Return what layers of a group have in common."""
    base, (a, _) = layer.get_base_layer(), matrices_of(layer)
    return base.in_features, base.bias is None, len(a), scaling_of(layer)


def _forward(
    group: LoraGroup, number: int, plain: Any, inputs: torch.Tensor, *arguments: Any, **options: Any
) -> torch.Tensor:
    layer = group.layers[number]
    if layer.disable_adapters or layer.merged or arguments or options:
        found: torch.Tensor = plain(inputs, *arguments, **options)
        return found
    return group.output(number, inputs)
