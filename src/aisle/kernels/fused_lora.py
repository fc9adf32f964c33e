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
    """Make the plain LoRA layers of a backbone compute in a single operation in float32.

    Layers with dropout, DoRA or trained base weights keep PEFT's code, and so does any pass under autocast:
    in half precision, adding up the weights would round the adapter away.
    """
    for layer in lora_layers(backbone):
        if (
            _reason(layer) is None
            and not layer.get_base_layer().weight.requires_grad
            and not dropout_of(layer)
        ):
            layer.forward = partial(_forward, layer, layer.forward)


def unfused_reason(backbone: nn.Module) -> str | None:
    """Return why a backbone's LoRA layers need PEFT's own code, as the end of a sentence, else None.

    LoRA dropout is not among the reasons, see `drops_inputs`.
    """
    layers = lora_layers(backbone)
    for layer in layers:
        reason = _reason(layer)
        if reason is not None:
            return reason
    adapters = {id(matrix) for layer in layers for matrix in matrices_of(layer)}
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad and id(parameter) not in adapters:
            return f"{name} is trained too, and is not a LoRA matrix of a linear layer"
    return None if layers else "the backbone has no LoRA layers"


def drops_inputs(backbone: nn.Module) -> bool:
    """Return whether a LoRA layer has dropout, so that it is not computed in a single operation."""
    return any(dropout_of(layer) is not None for layer in lora_layers(backbone))


def lora_layers(backbone: nn.Module) -> list[Any]:
    """Return PEFT's LoRA layers of linear layers, in the backbone's order."""
    from peft.tuners.lora import Linear

    return [module for module in backbone.modules() if isinstance(module, Linear)]


def matrices_of(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """Return A, (rank, inputs), and B, (outputs, rank), of a LoRA layer with a single adapter."""
    (name,) = layer.active_adapters
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def scaling_of(layer: Any) -> float:
    """Return the factor of the update of a LoRA layer with a single adapter."""
    (name,) = layer.active_adapters
    return float(layer.scaling[name])


def dropout_of(layer: Any) -> nn.Module | None:
    """Return the LoRA dropout of a layer with a single adapter, None if its rate is 0."""
    (name,) = layer.active_adapters
    dropout: nn.Module = layer.lora_dropout[name]
    return dropout if getattr(dropout, "p", 0.0) else None


def _reason(layer: Any) -> str | None:
    """Return why PEFT's own code must compute a layer."""
    names = layer.active_adapters
    if len(names) != 1:
        return f"{len(names)} adapters are active"
    if layer.use_dora[names[0]]:
        return "DoRA needs the norm of every adapted weight"
    if layer.lora_variant or layer.lora_bias[names[0]]:
        return "it is a variant of LoRA"
    base = layer.get_base_layer()
    if type(base) is not nn.Linear:
        return f"the adapted layers are {type(base).__name__}, not Linear"
    return None


def _forward(layer: Any, plain: Any, inputs: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    base = layer.get_base_layer()
    in_float32 = inputs.dtype == base.weight.dtype == torch.float32
    autocast = torch.is_autocast_enabled(inputs.device.type)
    if layer.disable_adapters or layer.merged or autocast or not in_float32:
        found: torch.Tensor = plain(inputs, *arguments, **options)
        return found
    fused: Any = AdaptedLinear.apply
    output: torch.Tensor = fused(inputs, base.weight, base.bias, *matrices_of(layer), scaling_of(layer))
    return output
