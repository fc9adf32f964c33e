"""Compute a linear layer and its LoRA adapter in a single operation, with half the memory traffic."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn


class AdaptedLinear(torch.autograd.Function):
    """Compute x (W + s B A)^T + b, with the gradients of x, A and B; W and b are frozen.

    Adding up the weights is cheap compared with multiplying the texts by them. So the forward pass is a
    single product, and so is the gradient of x. The gradients of A and B stay products of low rank.
    (https://arxiv.org/abs/2106.09685)
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Return the layer's output: (..., out)."""
        ctx.save_for_backward(inputs, weight, lora_a, lora_b)
        ctx.scaling = scaling
        return nn.functional.linear(inputs, torch.addmm(weight, lora_b, lora_a, alpha=scaling), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of inputs, A and B."""
        inputs, weight, lora_a, lora_b = ctx.saved_tensors
        rows, outer = inputs.flatten(0, -2), gradient.flatten(0, -2)
        of_a = ((outer @ lora_b).T @ rows).mul_(ctx.scaling)
        of_b = (outer.T @ (rows @ lora_a.T)).mul_(ctx.scaling)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_inputs = gradient @ torch.addmm(weight, lora_b, lora_a, alpha=ctx.scaling)
        return of_inputs, None, None, of_a, of_b, None


def fuse_lora(backbone: nn.Module) -> None:
    """Fuse the plain LoRA layers of a backbone with their base layers, in float32.

    Layers with dropout, DoRA or trained base weights keep PEFT's code. So does any pass under autocast: in
    half precision, rounding the summed weights would erase the adapter.
    """
    from peft.tuners.lora import Linear

    for module in backbone.modules():
        if isinstance(module, Linear) and _is_plain(module):
            layer: Any = module
            layer.forward = partial(_forward, layer, layer.forward)


def _is_plain(layer: Any) -> bool:
    base, names = layer.get_base_layer(), layer.active_adapters
    if type(base) is not nn.Linear or base.weight.requires_grad or len(names) != 1:
        return False
    dropout = layer.lora_dropout[names[0]]
    without_dropout = isinstance(dropout, nn.Identity) or not getattr(dropout, "p", 1)
    return without_dropout and not layer.use_dora[names[0]] and not layer.lora_bias[names[0]]


def _forward(layer: Any, plain: Any, inputs: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    base, (name, *_) = layer.get_base_layer(), layer.active_adapters
    in_float32 = inputs.dtype == base.weight.dtype == torch.float32
    autocast = torch.is_autocast_enabled(inputs.device.type)
    if layer.disable_adapters or layer.merged or autocast or not in_float32:
        found: torch.Tensor = plain(inputs, *arguments, **options)
        return found
    fused: Any = AdaptedLinear.apply
    output: torch.Tensor = fused(
        inputs,
        base.weight,
        base.bias,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
    )
    return output
