"""Digests of texts, and a set of them that finds repeats at 16 bytes a text."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["DigestSet", "Words", "text_digest", "text_digests"]

Words: TypeAlias = npt.NDArray[np.uint64]


def text_digest(text: str) -> bytes:
    """Return the 128-bit BLAKE2b digest of a text: 16 bytes."""
    return blake2b(text.encode(), digest_size=16).digest()


def text_digests(texts: Iterable[str]) -> Words:
    """Return the digest of each text: (texts, 2) uint64.

    Texts with equal digests count as equal: among 100 million texts, the probability that two different ones
    share a digest is below 2e-23 (n^2 / 2^129).
    """
    digests = bytearray()  # a list of them would take five times the memory
    for text in texts:
        digests += text_digest(text)
    return np.frombuffer(digests, "<u8").reshape(-1, 2)


class DigestSet:
    """A growing set of 128-bit digests, each stored with any number of 64-bit words.

    It takes 16 bytes for each digest and 8 for each word, and 9 bytes more while two runs merge; a Python set
    of texts takes about 150. The digests lie in sorted runs, each more than twice as long as the next, so
    there are few runs and a digest moves only log2(n) times (a log-structured merge: O'Neil et al. 1996,
    https://doi.org/10.1007/s002360050048).
    """

    def __init__(self) -> None:
        self._runs: list[list[Words]] = []

    def __len__(self) -> int:
        return sum(len(run[0]) for run in self._runs)

    def insert(self, digests: Words, *words: Words) -> tuple[npt.NDArray[np.bool_], list[Words]]:
        """Add digests; return which of them are new, and the words that are stored with each.

        Args:
            digests: (n, 2) uint64; the first of several equal digests counts as new.
            words: Arrays of (n,), the same number in every call. The words of a new digest are stored.

        Returns:
            Mask of the new digests, (n,), and for each of `words` the word stored with each digest, (n,).
        """
        # lexsort is stable: the first of equal digests stays first.
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
    """Merge two sorted runs, one column at a time, so that only one column is in memory twice."""
    places = np.searchsorted(run[0], other[0])
    for index, column in enumerate(other):
        run[index] = np.insert(run[index], places, column)
    return run


def _find(run: list[Words], high: Words, low: Words) -> npt.NDArray[np.int64]:
    """Return the position of each digest in a run, -1 if the run lacks it."""
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
