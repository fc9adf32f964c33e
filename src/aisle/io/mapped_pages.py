"""Give the memory of a memory-mapped array back while it is read from start to end."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["release_pages"]


def release_pages(array: npt.NDArray[Any]) -> None:
    """Unmap the pages of a memory-mapped array that were read; reading them again maps them again.

    They stay in the system's cache of the file, but no longer count as the memory of this process. Does
    nothing for other arrays, and where the system does not support it.

    Args:
        array: Array from `numpy.load(mmap_mode="r")`, or a view of it.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
