"""Whether this CPU multiplies 8-bit integers exactly; it is found without torch."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["why_int8_saturates"]

CPUINFO = Path("/proc/cpuinfo")
X86 = {"x86_64", "amd64"}
VNNI = {"avx512_vnni", "avx_vnni"}


def why_int8_saturates() -> str | None:
    """Return why sums of 8-bit products may be wrong in ONNX Runtime on this CPU; None if they are exact.

    On x86-64 without VNNI instructions, ONNX Runtime adds the products of unsigned and signed integers in
    pairs of 16 bits, in which 255 * 127 + 255 * 127 becomes 32,767. Its kernels of other CPUs are exact.
    https://github.com/microsoft/onnxruntime/pull/12088
    """
    if platform.machine().lower() not in X86:
        return None
    flags = _flags()
    if flags is None:
        return f"{CPUINFO} does not list the instructions of this CPU, which must include VNNI"
    return None if flags & VNNI else "this CPU has no VNNI instructions"


def _flags() -> frozenset[str] | None:
    """Return the names of the instruction sets of the first processor, as Linux lists them."""
    try:
        with CPUINFO.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "flags":
                    return frozenset(value.split())
    except OSError:
        return None
    return None
