"""Copy a tower with linear layers in 8-bit integers, as ONNX operators around a product of integers.

The codes are those of `models.int8_linear`: a fixed scale for each channel after norms, a scale for each
token elsewhere, and an asymmetric code after GELU. A token's codes depend on no other token, and sums of
integers are exact, so a text has the same embedding, bit by bit, alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.onnx.ops import symbolic

from aisle.export.onnx_graph import traceable_copy
from aisle.kernels.packed_attention import shared_copy
from aisle.models.int8_calibration import SharedInput, observe
from aisle.models.int8_linear import (
    LARGEST_CODE,
    LARGEST_CODE_AFTER_GELU,
    SMALLEST,
    SMALLEST_AFTER_GELU,
    ZERO_CODE,
    ZERO_CODE_AFTER_GELU,
)
from aisle.models.int8_tower import (
    CALIBRATION_TOKENS,
    channel_scales,
    linear_layers,
    merged_layer,
    random_tokens,
)
from aisle.models.tower import Tower

PRODUCT = "com.microsoft::QGemm"
"""https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md"""
LARGEST_BIAS_CODE = 2**30
"""A bias is a 32-bit integer in units of its output's scale."""


class _Codes(NamedTuple):
    """Codes of an input, (tokens, in) uint8, and each token's scale, (tokens, 1); None for fixed scales."""

    values: torch.Tensor
    scales: torch.Tensor | None


class ChannelCodes(NamedTuple):
    """Fixed codes of an input's channels: value = code * scale + middle.

    A norm's output is not centred at 0. With the middle of its range as the origin, all codes are used, and
    MiniLM's mean cosine with fp32 rises from 0.9989 to 0.9992 (titles and queries of the sample shop).
    """

    scales: torch.Tensor
    """(in,)"""
    middles: torch.Tensor
    """(in,)"""


class JointProduct(nn.Module):
    """Product of an input with the weights of all layers that take it, such as queries, keys and values.

    Args:
        layers: Layers that take the input.
        fixed: Fixed codes of the input's channels; None computes a scale for each token.
        after_gelu: Whether the input is the output of GELU; only without `fixed`.
    """

    one: torch.Tensor
    zero: torch.Tensor
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    bias: torch.Tensor
    bias_codes: torch.Tensor
    factors: torch.Tensor
    offsets: torch.Tensor

    def __init__(self, layers: Sequence[nn.Linear], fixed: ChannelCodes | None, *, after_gelu: bool) -> None:
        super().__init__()
        self.sizes = [layer.out_features for layer in layers]
        self.fixed, self.after_gelu = fixed is not None, after_gelu
        weight = torch.cat([layer.weight.detach().float() for layer in layers])
        bias = torch.cat([_bias(layer) for layer in layers])
        if fixed is not None:
            bias = bias + weight @ fixed.middles
            weight = weight * fixed.scales
            self.register_buffer("factors", fixed.scales.reciprocal())
            self.register_buffer("offsets", -fixed.middles / fixed.scales)
        # A bias must fit in 32 bits, also where all weights of an output are 0.
        least = torch.maximum(bias.abs() / LARGEST_BIAS_CODE, torch.tensor(SMALLEST))
        scales = torch.maximum(weight.abs().amax(1) / LARGEST_CODE, least)
        self.register_buffer("codes", (weight / scales[:, None]).round().to(torch.int8).t().contiguous())
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int8))
        self.register_buffer("bias", bias)
        self.register_buffer("bias_codes", (bias / scales).round().to(torch.int32))
        self.register_buffer("one", torch.tensor(1.0))
        zero = ZERO_CODE_AFTER_GELU if after_gelu else ZERO_CODE
        self.register_buffer("zero", torch.tensor(zero, dtype=torch.uint8))
        self._last: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs of all layers, computed once for layers that take an input in succession."""
        if self._last is None or self._last[0] is not inputs:
            self._last = inputs, self._outputs(inputs)
        return self._last[1]

    def _outputs(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = inputs.reshape(-1, inputs.shape[-1])
        values, scales = self._codes_of(rows)
        operands = [values, self.one, self.zero, self.codes, self.scales, self.zeros]
        if scales is None:
            operands.append(self.bias_codes)
        product = symbolic(
            PRODUCT,
            operands,
            attrs={"transB": 0},
            dtype=torch.float32,
            shape=(rows.shape[0], self.codes.shape[1]),
            version=1,
        )
        if scales is not None:
            product = product * scales + self.bias
        output = product.reshape(*inputs.shape[:-1], self.codes.shape[1])
        return (output,) if len(self.sizes) == 1 else torch.split(output, self.sizes, dim=-1)

    def _codes_of(self, rows: torch.Tensor) -> _Codes:
        if self.fixed:
            return _Codes(self._rounded(rows * self.factors + self.offsets), None)
        if self.after_gelu:
            largest = rows.amax(1, keepdim=True).clamp_min(SMALLEST_AFTER_GELU)
            codes = LARGEST_CODE_AFTER_GELU
        else:
            largest = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True))
            largest, codes = largest.clamp_min(SMALLEST), LARGEST_CODE
        return _Codes(self._rounded(rows * (codes / largest)), largest / codes)

    def _rounded(self, values: torch.Tensor) -> torch.Tensor:
        """Return values as unsigned integers, after adding the zero code; values out of range are clipped."""
        return symbolic(
            "QuantizeLinear",
            [values, self.one, self.zero],
            dtype=torch.uint8,
            shape=values.shape,
            version=19,
        )


class Int8Layer(nn.Module):
    """A layer of a joint product.

    Args:
        product: Product of all layers that take the input.
        place: Index of the layer among them.
    """

    def __init__(self, product: JointProduct, place: int) -> None:
        super().__init__()
        self.product = product
        self.place = place

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the layer's output: (..., out) float32."""
        outputs: tuple[torch.Tensor, ...] = self.product(inputs)
        return outputs[self.place]


class SameInAnyBatch(nn.Module):
    """A head in float32 whose output does not depend on the number of texts.

    A product with a single row takes another path in ONNX Runtime, whose last bits differ. So the rows are
    computed twice, in one product.

    Args:
        head: The head.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the head's output: (texts, out)."""
        output: torch.Tensor = self.head(torch.cat([embeddings, embeddings]))
        return output[: embeddings.shape[0]]


def int8_copy(tower: Tower, *, max_length: int) -> Tower:
    """Return a copy of a tower for `write_graph`, with linear layers in 8-bit integers.

    Adapters are merged, and heads and attention stay in float32.

    Args:
        tower: Tower in float32, on CPU, in evaluation mode; it is not changed.
        max_length: Maximum length of a text, in tokens.
    """
    tokens = random_tokens(tower.vocabulary_size, min(max_length, CALIBRATION_TOKENS))
    copied = traceable_copy(tower)
    with torch.inference_mode(False), torch.no_grad():
        observed = shared_copy(tower).eval()
        layers = dict(linear_layers(observed.backbone))
        weights = {name: merged_layer(layer) for name, layer in layers.items()}
        for shared in observe(observed, layers, tokens):
            _replace(copied.backbone, shared, weights)
    for place, head in enumerate(copied.heads):
        copied.heads[place] = SameInAnyBatch(head)
    return copied


def _replace(backbone: nn.Module, shared: SharedInput, weights: dict[str, nn.Linear]) -> None:
    """Replace the layers that take an input."""
    names = list(dict.fromkeys(shared.layers))
    layers = [weights[name] for name in names]
    fixed = None
    if shared.normed:
        middles = (shared.lowest + shared.highest) / 2
        fixed = ChannelCodes(channel_scales(shared.highest - middles, layers), middles)
    product = JointProduct(layers, fixed, after_gelu=shared.after_gelu)
    for place, name in enumerate(names):
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, Int8Layer(product, place))


def _bias(layer: Any) -> torch.Tensor:
    found: torch.Tensor = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
    return found.detach().float()
