"""Which rows meet in which batch, and each text of a batch once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DistinctTexts:
    """The distinct texts of a batch and where each of its rows finds its own.

    Args:
        texts: the distinct texts, in order of first appearance.
        rows: for every text given, its place in `texts`.
    """

    texts: list[str]
    rows: np.ndarray


def distinct(texts: Iterable[str]) -> DistinctTexts:
    """Return each text once, with the rows that use it."""
    places: dict[str, int] = {}
    rows = np.fromiter((places.setdefault(text, len(places)) for text in texts), dtype=np.int64)
    return DistinctTexts(texts=list(places), rows=rows)


def epoch_order(count: int, *, seed: int, epoch: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the order of the rows in an epoch; the same for the same seed and epoch everywhere.

    Args:
        count: rows in all.
        seed: of the run.
        epoch: another epoch is another order.
        groups: (count,) the group of each row, if the rows of a group are to stay together.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count)
    if groups is None:
        return order
    # A group takes the place of its first row; the sort is stable, so its rows stay shuffled.
    _, first, member = np.unique(groups[order], return_index=True, return_inverse=True)
    grouped: np.ndarray = order[np.argsort(first[member], kind="stable")]
    return grouped


def process_share(rows: np.ndarray, *, process_index: int, num_processes: int) -> np.ndarray:
    """Return one process's part of a global batch; parts differ in size by one at most."""
    return np.array_split(rows, num_processes)[process_index]
