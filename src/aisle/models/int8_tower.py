"""Copy a tower with linear layers in 8-bit integers; the rest is shared, in float32.

A few channels of a norm's output are ten to twenty times larger than the others, and a common scale would
leave few codes for the others. So each channel has its own scale, which balances its range against the range
of the weights that are multiplied by the scale (SmoothQuant, https://arxiv.org/abs/2211.10438). Random tokens
give the ranges, so that an embedding depends only on its text; a norm bounds its output for any text. Other
inputs have a scale for each token.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from aisle.errors import ModelError
from aisle.kernels.packed_attention import shared_copy
from aisle.models.int8_calibration import observe
from aisle.models.int8_linear import LARGEST_CODE, InputCodes, Int8Linear, multiplies_int8
from aisle.models.tower import Tower
from aisle.text.token_batches import PaddedBatch

CALIBRATION_TEXTS = 16
CALIBRATION_TOKENS = 32
SMOOTHING = 0.7
"""Exponent of a channel's range in its scale; the exponent of the weights' range is 1 - SMOOTHING."""
MARGIN = 1.2
"""Factor by which inputs may exceed the range found in calibration."""
SMALLEST_RANGE = 1e-5
LOWEST_COSINE = 0.95
"""Lowest accepted cosine between a random text's embeddings in int8 and in fp32; MiniLM reaches 0.99."""


def int8_tower(tower: Tower, *, max_length: int) -> Tower:
    """Return an int8 copy for inference on CPU; adapters are merged, and heads stay in float32.

    Args:
        tower: Tower in float32, on CPU, in evaluation mode; it is not changed.
        max_length: Maximum length of a text, in tokens.

    Raises:
        ModelError: The tower is not on CPU, this CPU does not multiply 8-bit integers, or the embeddings are
            not close to those in fp32.
    """
    device = next(tower.parameters()).device
    if device.type != "cpu":
        raise ModelError(f"int8 is for CPUs, and the model is on {device}; use fp32 or bf16 there")
    if not multiplies_int8():
        raise ModelError("int8 needs a CPU with VNNI instructions, which this CPU lacks; use fp32 or bf16")
    tokens = random_tokens(tower.vocabulary_size, min(max_length, CALIBRATION_TOKENS))
    with torch.inference_mode(False), torch.no_grad():
        # Calibrate on a copy, so that texts embedded by other threads at the same time do not count.
        observed = shared_copy(tower).eval()
        layers = dict(linear_layers(observed.backbone))
        weights = {name: merged_layer(layer) for name, layer in layers.items()}
        # The copy shares all parameters that it does not replace.
        memo: dict[int, Any] = {id(one): one for one in chain(observed.parameters(), observed.buffers())}
        for shared in observe(observed, layers, tokens):
            scales = (
                channel_scales(shared.largest, [weights[name] for name in shared.layers])
                if shared.normed
                else None
            )
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
    """Return `CALIBRATION_TEXTS` texts of random tokens, always the same texts."""
    size = (CALIBRATION_TEXTS, length)
    ids = np.random.default_rng(0).integers(5, max(vocabulary_size, 6), size=size)
    input_ids = torch.from_numpy(ids)
    return PaddedBatch(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))


def _check(cosines: torch.Tensor) -> None:
    lowest = float(cosines.min())
    if not lowest >= LOWEST_COSINE:
        raise ModelError(
            f"int8 does not suit this model: for random tokens, the cosine between an int8 and an fp32 "
            f"embedding is {lowest:.3f}, and must be at least {LOWEST_COSINE}; use fp32 or bf16"
        )


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


def channel_scales(largest: torch.Tensor, layers: Iterable[nn.Linear]) -> torch.Tensor:
    """Return the fixed scale of each channel, the value of a code of 1: (in,).

    Args:
        largest: (in,) largest magnitude in each channel.
        layers: Layers that take the input.
    """
    of_weights = torch.stack([layer.weight.abs().amax(0) for layer in layers]).amax(0)
    largest, of_weights = largest.clamp_min(SMALLEST_RANGE), of_weights.clamp_min(SMALLEST_RANGE)
    factors = largest**SMOOTHING / of_weights ** (1 - SMOOTHING)
    return factors * ((largest / factors).max() * MARGIN / LARGEST_CODE)
