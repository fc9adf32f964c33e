"""A linear layer in 8-bit integers, for inference on CPUs whose instructions multiply them.

Weights have a scale for each output, inputs one for each token, found as they come (the vector-wise
quantisation of https://arxiv.org/abs/2208.07339): y = (q_x q_w^T) s_x s_w + b, where q = round(v / s) and
s = max |v| / 127. The sums of products are exact, in 32-bit integers.
"""

from __future__ import annotations

import weakref

import torch
from torch import nn

LARGEST_CODE = 127
ZERO_CODE = 128
"""What stands for 0 in the inputs' codes: the fast products take the inputs unsigned."""
SMALLEST = 1e-30
"""Largest magnitude that a row of zeros is taken to have."""
ROW_STEP = 64
"""Products are prepared for each number of rows anew (0.6 to 4 ms), so there are few such numbers."""


class TokenCodes:
    """The codes of one layer's input, or of several layers that read the same: queries, keys and values.

    Args:
        smoothing: (in,) what each channel is divided by first; None for nothing.
    """

    def __init__(self, smoothing: torch.Tensor | None = None) -> None:
        self.smoothing = smoothing
        self._factors = None if smoothing is None else smoothing.reciprocal()
        self._last: tuple[weakref.ref[torch.Tensor], torch.Tensor, torch.Tensor] | None = None

    def of(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the codes of an input, found once for all the layers that read it one after the other.

        Args:
            inputs: (..., in) float32; not changed in place between these layers.

        Returns:
            The codes, (tokens rounded up, in) uint8, and the scales, (tokens, 1) float32.
        """
        last = self._last
        if last is not None and last[0]() is inputs:
            return last[1], last[2]
        rows = inputs.flatten(0, -2)
        codes, scales = token_codes(rows if self._factors is None else rows * self._factors)
        self._last = weakref.ref(inputs), codes, scales
        return codes, scales


class Int8Linear(nn.Module):
    """A frozen `nn.Linear` that computes in 8-bit integers: float32 in, float32 out.

    Args:
        weight: (out, in).
        bias: (out,), or None.
        inputs: finds the codes of the input; shared by the layers that read the same one.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, inputs: TokenCodes) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight = weight.detach().float()
        codes, scales = channel_codes(weight if inputs.smoothing is None else weight * inputs.smoothing)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)
        self._inputs = inputs
        self._scales = scales[:, 0].contiguous()
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._weight = torch.ops.onednn.qlinear_prepack(codes, None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the layer's output: (..., out) float32."""
        codes, scales = self._inputs.of(inputs)
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            codes,
            1.0,
            ZERO_CODE,
            self._weight,
            self._scales,
            self._zeros,
            None,  # the bias comes after the tokens' scales
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )[: len(scales)]
        if self.bias is None:
            product.mul_(scales)
        else:
            torch.addcmul(self.bias, product, scales, out=product)
        return product.view(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return the layer's shape, for printing."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


def token_codes(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's codes, `ZERO_CODE` added, and its scale; a row of zeros has codes of zero.

    Args:
        rows: (rows, in) float32.

    Returns:
        The codes, (rows rounded up to a multiple of `ROW_STEP`, in) uint8, where the last are not set, and
        the scales, (rows, 1) float32.
    """
    # |x| would be one more array to write than the two reductions have to read.
    largest = torch.maximum(rows.amax(1, keepdim=True), rows.amin(1, keepdim=True).neg_()).clamp_min_(
        SMALLEST
    )
    count, width = rows.shape
    codes = torch.empty(-(-count // ROW_STEP) * ROW_STEP, width, dtype=torch.uint8)
    # The conversion cuts fractions off, so that half a code more rounds to the nearest.
    codes[:count] = torch.mul(rows, LARGEST_CODE / largest).add_(ZERO_CODE + 0.5)
    return codes, largest.div_(LARGEST_CODE)


def channel_codes(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes of weights, (out, in) int8, and each output's scale, (out, 1) float32."""
    scales = weight.abs().amax(1, keepdim=True).clamp_min_(SMALLEST) / LARGEST_CODE
    return (weight / scales).round_().to(torch.int8), scales


def multiplies_int8() -> bool:
    """Return whether this CPU multiplies 8-bit integers fast, and exactly: without VNNI sums may saturate."""
    capabilities = torch.cpu.get_capabilities()
    vnni = capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")
    return bool(vnni) and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
