"""A copy of an embedder whose linear layers compute in 8-bit integers; the rest is shared, in float32.

A few channels of a norm's output are ten to twenty times larger than the others, which would leave these
few codes. SmoothQuant (https://arxiv.org/abs/2211.10438) divides each channel by a factor and multiplies the
weights by it. The factors come from random tokens, so that an embedding depends on nothing but its text.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.embedder import TextEmbedder
from aisle.models.int8_linear import Int8Linear, TokenCodes, multiplies_int8
from aisle.models.token_batches import PaddedBatch

CALIBRATION_TEXTS = 16
CALIBRATION_TOKENS = 32
SMALLEST_FACTOR = 1e-5


@dataclass
class SharedInput:
    """An input that one linear layer reads, or several.

    Args:
        largest: (in,) the largest magnitude in each channel.
        normed: whether it comes out of a norm.
        layers: names of those that read it.
    """

    largest: torch.Tensor
    normed: bool
    layers: list[str] = field(default_factory=list)


def int8_embedder(embedder: TextEmbedder, *, max_length: int) -> TextEmbedder:
    """Return a copy for inference on CPU; adapters are merged into its codes.

    Args:
        embedder: in float32, on CPU, in evaluation mode; it stays as it is.
        max_length: longest text that it reads, in tokens.

    Raises:
        ModelError: it is not on CPU, or this CPU does not multiply 8-bit integers.
    """
    device = next(embedder.parameters()).device
    if device.type != "cpu":
        raise ModelError(f"int8 is for CPUs, and the model is on {device}; use fp32 or bf16 there")
    if not multiplies_int8():
        raise ModelError("int8 needs a CPU with VNNI instructions, which this one lacks; use fp32 or bf16")
    layers = dict(_linear_layers(embedder))
    with torch.inference_mode(False), torch.no_grad():
        weights = {name: _merged(layer) for name, layer in layers.items()}
        inputs = {
            name: codes
            for shared in _calibrate(embedder, layers, max_length=max_length)
            for codes in [_token_codes(shared, weights)]
            for name in shared.layers
        }
        # What the copy does not replace it shares: no parameter is stored twice.
        memo: dict[int, Any] = {id(one): one for one in chain(embedder.parameters(), embedder.buffers())}
        for name, linear in weights.items():
            quantized = Int8Linear(linear.weight, linear.bias, inputs.get(name) or TokenCodes())
            memo[id(layers[name])] = quantized
        return copy.deepcopy(embedder, memo).eval()


def _linear_layers(embedder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear layers by name; one with an adapter counts as one layer."""
    from peft.tuners.lora import Linear

    within: set[nn.Module] = set()
    for name, module in embedder.named_modules():
        if module in within:
            continue
        adapted = isinstance(module, Linear) and type(module.get_base_layer()) is nn.Linear
        if adapted or type(module) is nn.Linear:
            within.update(module.modules())
            yield name, module


def _merged(layer: Any) -> nn.Linear:
    """Return a linear layer with its adapter, if any, in the weights."""
    if type(layer) is nn.Linear:
        return layer
    merged: Any = copy.deepcopy(layer)
    if not merged.merged:
        merged.merge()
    base: nn.Linear = merged.get_base_layer()
    return base


def _calibrate(embedder: TextEmbedder, layers: dict[str, nn.Module], *, max_length: int) -> list[SharedInput]:
    """Return the inputs of the linear layers when the embedder reads random tokens."""
    inputs: dict[tuple[int, torch.Size], SharedInput] = {}
    normed: set[int] = set()
    alive: list[torch.Tensor] = []  # so that no two of them have the same address

    def after_norm(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        alive.append(output)
        normed.add(output.data_ptr())

    def before_linear(name: str, entry: torch.Tensor) -> None:
        alive.append(entry)
        key = entry.data_ptr(), entry.shape
        if key not in inputs:
            inputs[key] = SharedInput(entry.abs().flatten(0, -2).amax(0), entry.data_ptr() in normed)
        inputs[key].layers.append(name)

    hooks = [
        module.register_forward_hook(after_norm)
        for module in embedder.modules()
        if type(module).__name__.endswith("Norm")
    ]
    hooks += [
        layer.register_forward_pre_hook(lambda _, entries, name=name: before_linear(name, entries[0]))
        for name, layer in layers.items()
    ]
    try:
        embedder([_random_tokens(embedder.backbone, min(max_length, CALIBRATION_TOKENS))])
    finally:
        for hook in hooks:
            hook.remove()
    return list(inputs.values())


def _random_tokens(backbone: Any, length: int) -> PaddedBatch:
    rng = np.random.default_rng(0)
    size = (CALIBRATION_TEXTS, length)
    ids = torch.from_numpy(rng.integers(5, max(backbone.config.vocab_size, 6), size=size))
    return PaddedBatch(input_ids=ids, attention_mask=torch.ones_like(ids))


def _token_codes(shared: SharedInput, weights: dict[str, nn.Linear]) -> TokenCodes:
    """Return the codes of an input, smoothed if it is a norm's output: others hardly need it."""
    if not shared.normed:
        return TokenCodes()
    of_weights = torch.stack([weights[name].weight.abs().amax(0) for name in shared.layers]).amax(0)
    ratio = shared.largest.clamp_min(SMALLEST_FACTOR) / of_weights.clamp_min(SMALLEST_FACTOR)
    return TokenCodes(ratio.sqrt())
