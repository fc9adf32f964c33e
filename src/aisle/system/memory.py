"""Freed memory: return it to the system, or keep it for the next tensors."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

__all__ = ["keep_freed_memory", "return_free_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's options (`man mallopt`)."""
KEPT_BYTES = 1 << 28
"""Most free memory to keep at the end of the heap."""
LARGEST_BLOCK = 1 << 25
"""Largest block of memory to keep: the highest value that glibc accepts."""


def return_free_memory() -> None:
    """Return freed memory to the operating system if the C library is glibc; otherwise do nothing.

    glibc keeps free memory between blocks that are in use, and tensors of varying sizes leave more and more
    of it: embedding 100,000 texts left 0.7 GiB, of which 0.3 were in use
    (docs/notes/index-and-hybrid.md).
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def keep_freed_memory() -> None:
    """Keep freed memory for the next tensors if the C library is glibc; otherwise do nothing.

    glibc maps a large block anew each time, so that the system clears each of its pages again: in a training
    step of a few milliseconds, this takes as long as the products of matrices that fill the pages.
    """
    set_option = _of_glibc("mallopt")
    if set_option is not None:
        set_option(MMAP_THRESHOLD, LARGEST_BLOCK)
        set_option(TRIM_THRESHOLD, KEPT_BYTES)


@functools.cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # Windows cannot open the library None
        return None
    return found
