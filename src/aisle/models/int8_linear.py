"""Linear layer in 8-bit integers, for inference on CPUs with instructions that multiply them.

Weights have a scale for each output. Inputs have a scale for each token, computed on the fly (the vector-wise
quantisation of https://arxiv.org/abs/2208.07339): y = (q_x q_w^T) s_x s_w + b, where q = round(v / s) and
s = max |v| / 127. If the range of an input is known in advance, each channel has a fixed scale instead, and
the weights are multiplied by it. Sums are exact, in 32-bit integers.
"""

from __future__ import annotations

import weakref

import torch
from torch import nn

LARGEST_CODE = 127
ZERO_CODE = 128
"""Code for 0 in the inputs; the fast products need unsigned inputs."""
SMALLEST = 1e-30
"""Largest magnitude assumed for a row of zeros."""
ZERO_CODE_AFTER_GELU = 21
LARGEST_CODE_AFTER_GELU = 234
"""GELU is always above -0.17, so nearly all codes represent values above 0."""
SMALLEST_AFTER_GELU = 1.9
"""Least value assumed for a row's maximum, so that 21 codes reach down to -0.17."""
BLOCK = 196_608
"""Numbers to convert to codes at a time; they stay in cache, which takes 0.8 of the time (1,024 x 1,536)."""
ROW_STEP = 64
"""Rows are rounded up to a multiple, as each new number of rows takes 0.6 to 4 ms to prepare."""


class InputCodes:
    """Codes of an input, shared by all layers that take it, for example queries, keys and values.

    Args:
        channel_scales: (in,) fixed scale of each channel; None computes a scale for each token.
        after_gelu: Whether the input is the output of GELU; only without `channel_scales`.
    """

    def __init__(self, channel_scales: torch.Tensor | None = None, *, after_gelu: bool = False) -> None:
        self.channel_scales = channel_scales
        self.after_gelu = after_gelu
        self.zero_code = ZERO_CODE_AFTER_GELU if after_gelu else ZERO_CODE
        self._factors = None if channel_scales is None else channel_scales.reciprocal()
        self._last: tuple[weakref.ref[torch.Tensor], torch.Tensor, torch.Tensor | None] | None = None

    def of(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the codes of an input, computed once for all layers that take it in succession.

        Args:
            inputs: (..., in) float32; must not be changed in place between these layers.

        Returns:
            The codes, (tokens rounded up to a multiple of `ROW_STEP`, in) uint8, and the tokens' scales,
            (tokens, 1) float32, or None if the channels have fixed scales.
        """
        last = self._last
        if last is not None and last[0]() is inputs:
            return last[1], last[2]
        rows = inputs.flatten(0, -2)
        scales: torch.Tensor | None = None
        if self._factors is None:
            codes, scales = token_codes(rows, after_gelu=self.after_gelu)
        else:
            codes = fixed_codes(rows, self._factors)
        self._last = weakref.ref(inputs), codes, scales
        return codes, scales


class Int8Linear(nn.Module):
    """Frozen `nn.Linear` that computes in 8-bit integers: float32 in, float32 out.

    Args:
        weight: (out, in).
        bias: (out,), or None.
        inputs: Codes of the input, shared by all layers that take it.
        gelu: Whether to apply GELU to the output; only for inputs with fixed scales.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, inputs: InputCodes, *, gelu: bool = False
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight = weight.detach().float()
        fixed = inputs.channel_scales
        codes, scales = channel_codes(weight if fixed is None else weight * fixed)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)
        self._inputs = inputs
        self._activation = ("gelu", "none") if gelu else ("none", "")
        self._scales = scales[:, 0].contiguous()
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._weight = torch.ops.onednn.qlinear_prepack(codes, None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the layer's output: (..., out) float32."""
        codes, scales = self._inputs.of(inputs)
        product = self._product(codes, self.bias if scales is None else None)
        output = product[: inputs.numel() // self.in_features]
        if scales is not None and self.bias is not None:
            torch.addcmul(self.bias, output, scales, out=output)
        elif scales is not None:
            output.mul_(scales)
        return output.view(*inputs.shape[:-1], self.out_features)

    def _product(self, codes: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        name, algorithm = self._activation
        found: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            codes,
            1.0,
            self._inputs.zero_code,
            self._weight,
            self._scales,
            self._zeros,
            bias,
            1.0,
            0,
            torch.float32,
            name,
            [],
            algorithm,
        )
        return found

    def extra_repr(self) -> str:
        """Return the layer's shape as text, for `repr`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


def token_codes(rows: torch.Tensor, *, after_gelu: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's codes, including the offset of the zero code, and its scale.

    In a row of zeros, all codes are the zero code.

    Args:
        rows: (rows, in) float32.
        after_gelu: Whether the rows are the output of GELU.

    Returns:
        The codes, (rows rounded up to a multiple of `ROW_STEP`, in) uint8, whose last rows are not set, and
        the scales, (rows, 1) float32.
    """
    codes, scales = _room_for_codes(rows), rows.new_empty(len(rows), 1)
    zero = ZERO_CODE_AFTER_GELU if after_gelu else ZERO_CODE
    step = max(BLOCK // rows.shape[1], 1)
    for start in range(0, len(rows), step):
        part, scale = rows[start : start + step], scales[start : start + step]
        torch.amax(part, 1, keepdim=True, out=scale)
        if after_gelu:
            scale.clamp_min_(SMALLEST_AFTER_GELU).div_(LARGEST_CODE_AFTER_GELU)
        else:
            # Two reductions read the array twice; |x| would write another array.
            torch.maximum(scale, part.amin(1, keepdim=True).neg_(), out=scale)
            scale.clamp_min_(SMALLEST).div_(LARGEST_CODE)
        # The conversion truncates, so adding half a code rounds to the nearest.
        codes[start : start + len(part)] = torch.mul(part, 1 / scale).add_(zero + 0.5)
    return codes, scales


def fixed_codes(rows: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Return each row's codes plus `ZERO_CODE`: (rows rounded up to a multiple of `ROW_STEP`, in) uint8.

    Args:
        rows: (rows, in) float32; values beyond a channel's range are clipped to it.
        factors: (in,) codes per unit: the reciprocal of each channel's scale.
    """
    codes = _room_for_codes(rows)
    codes[: len(rows)] = torch.mul(rows, factors).clamp_(-LARGEST_CODE, LARGEST_CODE).add_(ZERO_CODE + 0.5)
    return codes


def _room_for_codes(rows: torch.Tensor) -> torch.Tensor:
    count, width = rows.shape
    return torch.empty(-(-count // ROW_STEP) * ROW_STEP, width, dtype=torch.uint8)


def channel_codes(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes of weights, (out, in) int8, and the scale of each output, (out, 1) float32."""
    scales = weight.abs().amax(1, keepdim=True).clamp_min_(SMALLEST) / LARGEST_CODE
    return (weight / scales).round_().to(torch.int8), scales


def multiplies_int8() -> bool:
    """Return whether this CPU multiplies 8-bit integers fast and exactly; without VNNI, sums may saturate."""
    capabilities = torch.cpu.get_capabilities()
    vnni = capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")
    return bool(vnni) and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
