"""Batches of texts of equal length, computed on all processors at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from aisle.system.processors import available_processors, threads_chosen_by_user

__all__ = ["batch_workers", "equal_lengths", "fill_processors", "threads_of_call"]

BYTES_PER_THREAD = 20_000_000
"""Bytes of weights that a text reads for each thread of a call. Memory is the limit for a query: with the
42 MB of MiniLM in fp32, two threads answer in 0.68 of the time of one; with its 11 MB in int8 they take 1.1
times as long, and 1.8 times for 5 tokens."""

LEAST_TOKENS = 256
"""Batches are not made smaller than this to give every processor some."""
RunAll = Callable[[Callable[[np.ndarray], np.ndarray], list[np.ndarray]], Iterator[np.ndarray]]


@contextmanager
def batch_workers(
    lengths: np.ndarray, max_tokens: int, *, call_threads: int
) -> Iterator[tuple[RunAll, list[np.ndarray]]]:
    """Yield a function that computes batches, on all processors if it is worth it, and the batches.

    Args:
        lengths: (texts,) number of tokens in each text.
        max_tokens: Most tokens in a batch; a longer text is a batch by itself.
        call_threads: Threads of a call, which all calls share except for the caller's own.
    """
    # A few queries must not wait for the start of threads, nor for their number, which is read from files.
    threads = _threads() - call_threads + 1 if fill_processors(lengths) else 1
    if threads <= 1:
        yield map, equal_lengths(lengths, max_tokens)
        return
    share = max(-(-int(lengths.sum()) // threads), LEAST_TOKENS)
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="encode") as pool:
        try:
            yield pool.map, equal_lengths(lengths, min(max_tokens, share))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def fill_processors(lengths: np.ndarray) -> bool:
    """Return whether texts are enough for batches on all processors.

    Args:
        lengths: (texts,) number of tokens in each text.
    """
    return int(lengths.sum()) > LEAST_TOKENS


def threads_of_call(weight_bytes: int) -> int:
    """Return the number of threads of a call.

    Args:
        weight_bytes: Bytes of the weights that every text reads.
    """
    return max(1, min(weight_bytes // BYTES_PER_THREAD, _threads()))


def equal_lengths(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Return the rows of batches of texts of equal length, longest first.

    Args:
        lengths: (texts,) number of tokens in each text.
        max_tokens: Most tokens in a batch; a longer text is a batch by itself.
    """
    order = np.argsort(-lengths, kind="stable")
    runs = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1) if len(order) else []
    batches = []
    for run in runs:
        size = max(max_tokens // max(int(lengths[run[0]]), 1), 1)
        batches += [run[start : start + size] for start in range(0, len(run), size)]
    return batches


def _threads() -> int:
    """Return the number of threads of a process: the user's OMP_NUM_THREADS, or its share of processors."""
    if threads_chosen_by_user():
        return max(1, int(os.environ["OMP_NUM_THREADS"].partition(",")[0]))
    return max(1, available_processors() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
