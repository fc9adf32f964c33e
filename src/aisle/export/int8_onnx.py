"""Copy a tower with linear layers in 8-bit integers, as ONNX operators around a product of integers.

Weights have a scale for each output. Inputs have fixed scales where their range is known: after norms and
after attention. Elsewhere they have a scale for each token, computed on the fly (the vector-wise quantisation
of https://arxiv.org/abs/2208.07339). A token's codes depend on no other token, and sums of integers are
exact, so a text has the same embedding, bit by bit, alone and in any batch.

A few channels of a norm's output are ten to twenty times larger than the others, and a common scale would
leave few codes for the others. So each channel has its own scale, which balances its range against the range
of the weights that are multiplied by the scale (SmoothQuant, https://arxiv.org/abs/2211.10438).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.onnx.ops import symbolic

from aisle.export.int8_calibration import (
    SharedInput,
    linear_layers,
    merged_layer,
    observe,
    random_tokens,
)
from aisle.export.onnx_graph import traceable_copy
from aisle.kernels.packed_attention import shared_copy
from aisle.models.tower import Tower

PRODUCT = "com.microsoft::MatMulIntegerToFloat"
"""https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md"""
LARGEST_CODE = 127
ZERO_CODE = 128
"""Code for 0 in the inputs; the fast products need unsigned inputs."""
SMALLEST = 1e-30
"""Least value assumed for a row's largest magnitude, and for the scale of a row of weights."""
ZERO_CODE_AFTER_GELU = 21
LARGEST_CODE_AFTER_GELU = 234
"""GELU is always above -0.17, so nearly all codes represent values above 0."""
SMALLEST_AFTER_GELU = 1.9
"""Least value assumed for a row's maximum, so that 21 codes reach down to -0.17."""
SMOOTHING = 0.7
"""Exponent of a channel's range in its scale; the exponent of the weights' range is 1 - SMOOTHING."""
MARGIN = 1.2
"""Factor by which inputs may exceed the range found in calibration."""
SMALLEST_RANGE = 1e-5


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
        mean: (in,) mean input, for which the bias cancels the rounding of the weights (bias correction,
            https://arxiv.org/abs/1906.04721). MiniLM's mean cosine rises from 0.99904 to 0.99915.
        in_codes: Whether the input is in units of the fixed codes already, before rounding.
        after_gelu: Whether the input is the output of GELU; only without `fixed`.
    """

    one: torch.Tensor
    zero: torch.Tensor
    codes: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor
    factors: torch.Tensor
    offsets: torch.Tensor
    largest_code: torch.Tensor

    def __init__(
        self,
        layers: Sequence[nn.Linear],
        fixed: ChannelCodes | None,
        *,
        mean: torch.Tensor,
        in_codes: bool = False,
        after_gelu: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = [layer.out_features for layer in layers]
        self.fixed, self.in_codes, self.after_gelu = fixed is not None, in_codes, after_gelu
        weight = torch.cat([layer.weight.detach().float() for layer in layers])
        bias = torch.cat([_bias(layer) for layer in layers])
        if fixed is not None:
            bias = bias + weight @ fixed.middles
            weight = weight * fixed.scales
            mean = (mean - fixed.middles) / fixed.scales
            self.register_buffer("factors", fixed.scales.reciprocal())
            self.register_buffer("offsets", -fixed.middles / fixed.scales)
        scales = (weight.abs().amax(1) / LARGEST_CODE).clamp_min(SMALLEST)
        codes = (weight / scales[:, None]).round()
        bias = bias + (weight - codes * scales[:, None]) @ mean
        self.register_buffer("codes", codes.to(torch.int8).t().contiguous())
        largest_code = LARGEST_CODE_AFTER_GELU if after_gelu else LARGEST_CODE
        self.register_buffer("scales", scales if fixed is not None else scales / largest_code)
        self.register_buffer("bias", bias)
        self.register_buffer("one", torch.tensor(1.0))
        self.register_buffer("largest_code", torch.tensor(float(largest_code)))
        zero = ZERO_CODE_AFTER_GELU if after_gelu else ZERO_CODE
        self.register_buffer("zero", torch.tensor(zero, dtype=torch.uint8))
        self._last: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs of all layers, computed once for layers that take an input in succession."""
        if self._last is None or self._last[0] is not inputs:
            self._last = inputs, self._outputs(inputs)
        return self._last[1]

    def _outputs(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.fixed:
            codes = inputs if self.in_codes else inputs * self.factors + self.offsets
            output = self._product(codes, self.bias)
        else:
            largest = self._largest(inputs)
            output = self._product(inputs * (self.largest_code / largest), None) * largest + self.bias
        return (output,) if len(self.sizes) == 1 else torch.split(output, self.sizes, dim=-1)

    def _largest(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return each token's largest magnitude: (..., 1)."""
        highest = inputs.amax(-1, keepdim=True)
        if self.after_gelu:
            return highest.clamp_min(SMALLEST_AFTER_GELU)
        return torch.maximum(highest, -inputs.amin(-1, keepdim=True)).clamp_min(SMALLEST)

    def _product(self, values: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the product with the weights: (..., out) float32.

        Args:
            values: (..., in) in units of the codes; they are rounded, and clipped if out of range.
            bias: (out,), or None.
        """
        codes = symbolic(
            "QuantizeLinear",
            [values, self.one, self.zero],
            dtype=torch.uint8,
            shape=values.shape,
            version=19,
        )
        return symbolic(
            PRODUCT,
            [codes, self.codes, self.one, self.scales, self.zero, None, bias],
            dtype=torch.float32,
            shape=(*values.shape[:-1], self.codes.shape[1]),
            version=1,
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
    copied = traceable_copy(tower)
    with torch.inference_mode(False), torch.no_grad():
        observed = shared_copy(tower).eval()
        layers = dict(linear_layers(observed.backbone))
        inputs = observe(observed, layers, random_tokens(tower.vocabulary_size, max_length))
        weights = {name: merged_layer(layer) for name, layer in layers.items()}
        of_values = codes_of_values(inputs, weights)
        for shared in inputs:
            _replace(copied.backbone, shared, weights, of_values)
    for place, head in enumerate(copied.heads):
        copied.heads[place] = SameInAnyBatch(head)
    return copied


def channel_scales(largest: torch.Tensor, layers: Iterable[nn.Linear]) -> torch.Tensor:
    """Return the fixed scale of each channel, the value of a code of 1: (in,).

    Args:
        largest: (in,) largest magnitude in each channel.
        layers: Layers that take the input.
    """
    of_weights = torch.stack([layer.weight.abs().amax(0) for layer in layers]).amax(0)
    largest, of_weights = largest.clamp_min(SMALLEST_RANGE), of_weights.clamp_min(SMALLEST_RANGE)
    factors = largest**SMOOTHING / of_weights ** (1 - SMOOTHING)
    return factors * ((largest / factors).max() / LARGEST_CODE)


def codes_of_values(inputs: Iterable[SharedInput], weights: dict[str, nn.Linear]) -> dict[str, ChannelCodes]:
    """Give values the units of the codes of attention's output, and return the codes by the layers' names.

    Attention averages values with weights that add up to 1. So its output is in the units of the values, and
    its codes need no operation of their own. A layer that is called several times keeps its values.
    """
    calls = Counter(name for shared in inputs for name in shared.layers)
    found: dict[str, ChannelCodes] = {}
    for shared in inputs:
        values = shared.values
        if values is None or any(calls[name] > 1 for name in (values.layer, *shared.layers)):
            continue
        middles = (values.lowest + values.highest) / 2
        largest = MARGIN * values.repeated(values.highest - middles)
        scales = values.shared(channel_scales(largest, [weights[name] for name in shared.layers]))
        found[values.layer] = ChannelCodes(scales, middles)
    for name, codes in found.items():
        weights[name] = _in_units(weights[name], codes)
    return found


def _in_units(layer: nn.Linear, codes: ChannelCodes) -> nn.Linear:
    """Return a layer whose output is in units of codes."""
    moved = nn.Linear(layer.in_features, layer.out_features)
    moved.weight.data = layer.weight.detach().float() / codes.scales[:, None]
    moved.bias.data = (_bias(layer) - codes.middles) / codes.scales
    return moved


def _replace(
    backbone: nn.Module,
    shared: SharedInput,
    weights: dict[str, nn.Linear],
    of_values: dict[str, ChannelCodes],
) -> None:
    """Replace the layers that take an input."""
    names = list(dict.fromkeys(shared.layers))
    layers = [weights[name] for name in names]
    averaged = shared.values is not None and shared.values.layer in of_values
    product = JointProduct(
        layers,
        _fixed_codes(shared, layers, of_values),
        mean=shared.mean,
        in_codes=averaged,
        after_gelu=shared.after_gelu,
    )
    for place, name in enumerate(names):
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, Int8Layer(product, place))


def _fixed_codes(
    shared: SharedInput, layers: Sequence[nn.Linear], of_values: dict[str, ChannelCodes]
) -> ChannelCodes | None:
    """Return the codes of an input if its range is known."""
    values = shared.values
    if values is not None and values.layer in of_values:
        codes = of_values[values.layer]
        return ChannelCodes(values.repeated(codes.scales), values.repeated(codes.middles))
    if shared.normed:
        middles = (shared.lowest + shared.highest) / 2
        return ChannelCodes(channel_scales(MARGIN * (shared.highest - middles), layers), middles)
    return None


def _bias(layer: Any) -> torch.Tensor:
    found: torch.Tensor = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
    return found.detach().float()
