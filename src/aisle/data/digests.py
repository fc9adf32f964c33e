"""Which texts were seen before, at 16 bytes each: 128-bit digests in sorted arrays."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["DigestSet", "Words", "text_digests"]

Words: TypeAlias = npt.NDArray[np.uint64]


def text_digests(texts: Iterable[str]) -> Words:
    """Return the 128-bit BLAKE2b digest of each text: (texts, 2) uint64.

    Equal digests are taken for equal texts: among 100 million texts, the chance that any two differ and have
    the same one is below 2e-23 (n^2 / 2^129).
    """
    digests = b"".join(blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, "<u8").reshape(-1, 2)


class DigestSet:
    """A growing set of 128-bit digests, each with any number of further 64-bit words.

    It holds 16 bytes for each digest and 8 for each further word, and for a moment 9 bytes more while two
    runs merge; a Python set of texts holds about 150. The digests lie in sorted runs, of which each is more
    than twice as long as the next: there are few, and a digest moves only log2(n) times (a log-structured
    merge: O'Neil et al. 1996, https://doi.org/10.1007/s002360050048).
    """

    def __init__(self) -> None:
        self._runs: list[list[Words]] = []

    def __len__(self) -> int:
        return sum(len(run[0]) for run in self._runs)

    def insert(self, digests: Words, *words: Words) -> tuple[npt.NDArray[np.bool_], list[Words]]:
        """Return which digests are there for the first time, and the words that were kept with each.

        Args:
            digests: (n, 2); among equal ones, the first counts.
            words: each (n,); always as many of them. Those of a digest's first time are kept.

        Returns:
            (n,) whether it is the first time, and for each of `words` (n,) the word kept with the digest.
        """
        # lexsort is stable: the first of equal digests stays the first.
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        columns = [column[order] for column in (digests[:, 0], digests[:, 1], *words)]
        starts = np.ones(len(order), np.bool_)
        starts[1:] = (columns[0][1:] != columns[0][:-1]) | (columns[1][1:] != columns[1][:-1])
        distinct = [column[starts] for column in columns]
        is_new = np.ones(len(distinct[0]), np.bool_)
        for run in self._runs:
            at = _find(run, distinct[0], distinct[1])
            there = at >= 0
            is_new &= ~there
            for kept, stored in zip(distinct[2:], run[2:], strict=True):
                kept[there] = stored[at[there]]
        self._append([column[is_new] for column in distinct])
        group = np.cumsum(starts) - 1
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return (starts & is_new[group])[back], [column[group][back] for column in distinct[2:]]

    def _append(self, run: list[Words]) -> None:
        if not len(run[0]):
            return
        while self._runs and len(self._runs[-1][0]) <= 2 * len(run[0]):
            run = _merged(self._runs.pop(), run)
        self._runs.append(run)


def _merged(run: list[Words], other: list[Words]) -> list[Words]:
    """Return two sorted runs as one; word by word, so that only one of them is there twice."""
    places = np.searchsorted(run[0], other[0])
    for index, column in enumerate(other):
        run[index] = np.insert(run[index], places, column)
    return run


def _find(run: list[Words], high: Words, low: Words) -> npt.NDArray[np.int64]:
    """Return the place of each digest in a run, -1 for one that is not there."""
    found = np.full(len(high), -1, np.int64)
    at = np.searchsorted(run[0], high)
    left = np.arange(len(high))
    while len(left):
        left = left[at[left] < len(run[0])]
        left = left[run[0][at[left]] == high[left]]
        same = run[1][at[left]] == low[left]
        found[left[same]] = at[left[same]]
        left = left[~same]
        at[left] += 1
    return found
