"""Copy a tower with linear layers that compute in 8-bit integers; the rest is shared, in float32.

A few channels of a norm's output are ten to twenty times larger than the others, and a common scale would
leave few codes for the others. So each channel has its own scale, a compromise between its range and that of
the weights that absorb the scale (SmoothQuant, https://arxiv.org/abs/2211.10438). The ranges come from random
tokens, so that an embedding depends on its text alone; a norm bounds its outputs, whatever the text. Other
inputs have a scale for each token.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from aisle.errors import ModelError
from aisle.kernels.packed_attention import shared_copy
from aisle.models.int8_calibration import SharedInput, observe
from aisle.models.int8_linear import LARGEST_CODE, InputCodes, Int8Linear, multiplies_int8
from aisle.models.tower import Tower
from aisle.text.token_batches import PaddedBatch

CALIBRATION_TEXTS = 16
CALIBRATION_TOKENS = 32
SMOOTHING = 0.7
"""Exponent of a channel's range in its scale; the weights' range has 1 - SMOOTHING."""
MARGIN = 1.2
"""Factor by which an input may exceed the calibration's range."""
SMALLEST_RANGE = 1e-5
LOWEST_COSINE = 0.95
"""Lowest cosine between a random text's embeddings in int8 and in fp32; MiniLM has 0.99."""


def int8_tower(tower: Tower, *, max_length: int) -> Tower:
    """Return a copy for inference on CPU; adapters are merged into its codes, heads stay in float32.

    Args:
        tower: Tower in float32, on CPU, in evaluation mode; it is not changed.
        max_length: Longest text that it reads, in tokens.

    Raises:
        ModelError: The tower is not on CPU, this CPU does not multiply 8-bit integers, or the embeddings are
            not close to those in fp32.
    """
    device = next(tower.parameters()).device
    if device.type != "cpu":
        raise ModelError(f"int8 is for CPUs, and the model is on {device}; use fp32 or bf16 there")
    if not multiplies_int8():
        raise ModelError("int8 needs a CPU with VNNI instructions, which this one lacks; use fp32 or bf16")
    tokens = random_tokens(tower.vocabulary_size, min(max_length, CALIBRATION_TOKENS))
    with torch.inference_mode(False), torch.no_grad():
        # The calibration observes a copy: texts that other threads embed at the same time must not count.
        observed = shared_copy(tower).eval()
        layers = dict(_linear_layers(observed.backbone))
        weights = {name: _merged(layer) for name, layer in layers.items()}
        # The copy shares everything that it does not replace: no parameter is stored twice.
        memo: dict[int, Any] = {id(one): one for one in chain(observed.parameters(), observed.buffers())}
        for shared in observe(observed, layers, tokens):
            scales = _channel_scales(shared, weights) if shared.normed else None
            codes = InputCodes(scales, after_gelu=shared.after_gelu)
            for name in shared.layers:
                activation = shared.gelus.get(name) if shared.normed else None
                linear, fused = weights[name], activation is not None
                memo[id(layers[name])] = Int8Linear(linear.weight, linear.bias, codes, gelu=fused)
                if activation is not None:
                    memo[id(activation)] = nn.Identity()
        copied = copy.deepcopy(observed, memo)
        _check(nn.functional.cosine_similarity(copied([tokens]), tower([tokens])))
    return copied


def random_tokens(vocabulary_size: int, length: int) -> PaddedBatch:
    """Return `CALIBRATION_TEXTS` texts of random tokens, the same texts every time."""
    size = (CALIBRATION_TEXTS, length)
    ids = np.random.default_rng(0).integers(5, max(vocabulary_size, 6), size=size)
    input_ids = torch.from_numpy(ids)
    return PaddedBatch(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))


def _check(cosines: torch.Tensor) -> None:
    lowest = float(cosines.min())
    if not lowest >= LOWEST_COSINE:
        raise ModelError(
            f"int8 does not suit this model: an embedding of random tokens has a cosine of {lowest:.3f} to "
            f"that in fp32, and {LOWEST_COSINE} is the least; use fp32 or bf16"
        )


def _linear_layers(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear layers by name; a layer with an adapter is a single layer."""
    from peft.tuners.lora import Linear

    within: set[nn.Module] = set()
    for name, module in backbone.named_modules():
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


def _channel_scales(shared: SharedInput, weights: dict[str, nn.Linear]) -> torch.Tensor:
    """Return the value of a code's unit in each channel: (in,)."""
    of_weights = torch.stack([weights[name].weight.abs().amax(0) for name in shared.layers]).amax(0)
    largest, of_weights = shared.largest.clamp_min(SMALLEST_RANGE), of_weights.clamp_min(SMALLEST_RANGE)
    factors = largest**SMOOTHING / of_weights ** (1 - SMOOTHING)
    return factors * ((largest / factors).max() * MARGIN / LARGEST_CODE)
