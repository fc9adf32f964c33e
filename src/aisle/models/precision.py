"""Choose the fastest compute type for embedding texts on a device."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from aisle.models.encoder import TorchEncoder
from aisle.types.encoder_protocol import Precision

_BOTH: tuple[Precision, Precision] = ("fp32", "bf16")
TIMED_TEXTS = 64


def fastest_precision(encoder: TorchEncoder, texts: Sequence[str]) -> Precision:
    """Return the compute type, fp32 or bf16, that embeds these texts faster on the encoder's device.

    On CPUs with bf16 instructions, both are timed on some of the texts. bf16 is faster with AMX; with only
    AVX-512, it was 1.7 times as fast on one machine and 1.7 times slower on another (docs/results.md).
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
