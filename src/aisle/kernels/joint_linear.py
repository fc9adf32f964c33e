"""Sibling linear layers and their LoRA adapters as one product, in the number type of the frozen weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from aisle.kernels.adjacent_tensors import are_adjacent
from aisle.kernels.fused_lora import dropout_of, matrices_of, scaling_of


class JointLinear(torch.autograd.Function):
    """x W^T + b + s (x A^T) B^T for the layers of a group, with the gradients of x and of every A and B.

    W is (outputs, inputs) and A is (n r, inputs), both stacked over the n layers. B is (outputs, n r): the
    layers' matrices lie on its diagonal, and the rest is zero.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, group: LoraGroup, *_: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return each layer's output: (..., outputs of the layer), adjacent columns of one matrix.

        Args:
            ctx: Autograd's.
            inputs: (..., inputs).
            group: The layers, with fresh copies of A and B.
            _: The parameters A and B of each layer, for which autograd expects gradients.
        """
        rows = inputs.flatten(0, -2)
        low = rows @ group.a.T
        joint = nn.functional.linear(rows, group.weight, group.bias)
        joint.addmm_(low, group.b.T, alpha=group.scaling)
        ctx.save_for_backward(rows, low)
        # The copies are not saved as tensors: another forward pass before the backward pass refreshes them in
        # place, which autograd would refuse although their values are the same.
        ctx.group, ctx.shape = group, inputs.shape
        parts = torch.split(joint, group.sizes, dim=1)
        # `data` hides from autograd that they share memory: Longformer changes its queries in place, which is
        # harmless to keys and values, and refused for one of several views.
        return tuple(part.view(*inputs.shape[:-1], -1).data for part in parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of the inputs and of every A and B."""
        rows, low = ctx.saved_tensors
        group: LoraGroup = ctx.group
        gradient = joined_columns([part.flatten(0, -2) for part in gradients])
        of_low = gradient @ group.b
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_rows = (gradient @ group.weight).addmm_(of_low, group.a, alpha=group.scaling)
            of_inputs = of_rows.view(ctx.shape)
        # The scale has a dimension, so that its type is the result's: one operation scales and casts.
        of_a = (of_low.T @ rows) * group.scale
        of_b = (gradient.T @ low).view(-1, group.rank).index_select(0, group.diagonal) * group.scale
        each = zip(torch.split(of_a, group.rank), torch.split(of_b, group.sizes), strict=True)
        return of_inputs, None, *(matrix for pair in each for matrix in pair)


class LoraGroup:
    """LoRA layers of equal rank and scale that read the same input, or a single layer.

    The first layer that is called computes the outputs of all; the others take theirs.

    Args:
        layers: PEFT's layers.
    """

    a: torch.Tensor
    """(n r, inputs) copies of A; `AdapterCopies` makes them and the next three."""
    b: torch.Tensor
    """(outputs, n r) copies of B on the diagonal."""
    diagonal: torch.Tensor
    """(outputs,) rows of a layer's B among the rows of `b`, where that is viewed as (outputs n, r)."""
    scale: torch.Tensor
    """(1,) the scaling, in the number type of the parameters."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        self.bases: list[nn.Linear] = [layer.get_base_layer() for layer in layers]
        self.matrices = [matrices_of(layer) for layer in layers]
        self.sizes = [base.out_features for base in self.bases]
        self.rank = len(self.matrices[0][0])
        self.scaling = scaling_of(layers[0])
        self._inputs: torch.Tensor | None = None
        self._outputs: dict[int, torch.Tensor] = {}
        self.apart = dropout_of(layers[0]) is not None
        """Whether each layer is computed by itself."""

    @property
    def weight(self) -> torch.Tensor:
        """The stacked frozen weights: (outputs, inputs), a view of the layers' own."""
        first = self.bases[0].weight
        return first.as_strided((sum(self.sizes), first.shape[1]), first.stride())

    @property
    def bias(self) -> torch.Tensor | None:
        """The stacked biases: (outputs,), a view of the layers' own; None if the layers have none."""
        first: torch.Tensor | None = self.bases[0].bias
        return None if first is None else first.as_strided((sum(self.sizes),), first.stride())

    def output(self, number: int, inputs: torch.Tensor) -> torch.Tensor:
        """Return the output of a layer: (..., outputs of the layer).

        Args:
            number: Place of the layer in the group.
            inputs: (..., inputs). Layers that are called with the same tensor object share their computation.
        """
        if self._outputs and (self._inputs is not inputs or number not in self._outputs):
            # Layers of this name read different inputs here, as in cross-attention.
            self.apart = True
            self.forget()
        if self.apart:
            return _output_of(self.layers[number], inputs)
        if not self._outputs:
            joint: Any = JointLinear.apply
            matrices = [matrix for pair in self.matrices for matrix in pair]
            self._inputs, self._outputs = inputs, dict(enumerate(joint(inputs, self, *matrices)))
        output = self._outputs.pop(number)
        if not self._outputs:
            self._inputs = None
        return output

    def forget(self) -> None:
        """Free outputs that no layer took, because a pass failed between the layers."""
        self._inputs, self._outputs = None, {}

    def stack(self) -> None:
        """Lay the frozen weights of the layers one behind the other; each layer keeps a view of its own."""
        for tensors in self._frozen():
            if not are_adjacent(tensors):
                stacked = torch.cat([tensor.data for tensor in tensors])
                for tensor, part in zip(tensors, torch.split(stacked, self.sizes), strict=True):
                    tensor.data = part

    @property
    def is_stacked(self) -> bool:
        """Whether the frozen weights lie one behind the other; moving a model lays them apart."""
        return all(map(are_adjacent, self._frozen()))

    def _frozen(self) -> list[list[torch.Tensor]]:
        weights: list[torch.Tensor] = [base.weight for base in self.bases]
        biases: list[torch.Tensor] = [base.bias for base in self.bases if base.bias is not None]
        return [weights, biases] if biases else [weights]


def joined_columns(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return matrices side by side: a view if they are adjacent columns of one matrix, else a copy.

    Args:
        parts: (rows, columns of the part) each.
    """
    first, columns = parts[0], sum(part.shape[1] for part in parts)
    storage, start = first.untyped_storage().data_ptr(), first.storage_offset()
    for part in parts:
        placed = (part.untyped_storage().data_ptr(), part.storage_offset(), part.stride())
        if placed != (storage, start, first.stride()) or part.stride(1) != 1:
            return torch.cat(list(parts), dim=1)
        start += part.shape[1]
    return first.as_strided((len(first), columns), first.stride())


def _output_of(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Return the output of a single layer, with its LoRA dropout, in the number type of the inputs."""
    linear, (a, b) = nn.functional.linear, matrices_of(layer)
    dropout = dropout_of(layer)
    dropped = inputs if dropout is None else dropout(inputs)
    low = linear(linear(dropped, a.to(inputs.dtype)), b.to(inputs.dtype))
    output: torch.Tensor = layer.get_base_layer()(inputs) + low * scaling_of(layer)
    return output
