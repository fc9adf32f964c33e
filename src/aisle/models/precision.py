"""Choose the compute type that embeds texts faster on a device."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from aisle.models.encoder import TorchEncoder
from aisle.types.encoder_protocol import Precision

_BOTH: tuple[Precision, Precision] = ("fp32", "bf16")
TIMED_TEXTS = 64


def fastest_precision(encoder: TorchEncoder, texts: Sequence[str]) -> Precision:
    """Return the compute type that embeds these texts faster on the encoder's device.

    On CPUs with bf16 instructions that is measured, on a few of the texts: with AMX bf16 wins, with
    AVX-512 alone it was seen to win by 1.7 and to lose by 1.7 (docs/results.md).
    """
    device = encoder.device
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if device.type != "cpu" or not _cpu_multiplies_bf16() or len(texts) < 10 * TIMED_TEXTS:
        return "fp32"
    sample = texts[:: len(texts) // TIMED_TEXTS][:TIMED_TEXTS]
    seconds: dict[Precision, float] = {}
    for precision in _BOTH * 2:  # the first round warms up
        started = time.perf_counter()
        encoder.encode_products(sample, precision=precision)
        seconds[precision] = time.perf_counter() - started
    return min(_BOTH, key=lambda precision: seconds[precision])


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
