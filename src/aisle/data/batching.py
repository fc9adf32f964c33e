"""Order rows into batches, and keep each text of a batch once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from aisle.data.group_batches import spread_parts


@dataclass(frozen=True)
class DistinctTexts:
    """The distinct texts of a batch, and the text of each row.

    Args:
        texts: Distinct texts, in order of first appearance.
        rows: Position in `texts` of the text of each row.
    """

    texts: list[str]
    rows: np.ndarray


def distinct(texts: Iterable[str]) -> DistinctTexts:
    """Return each text once, and for each row the position of its text."""
    places: dict[str, int] = {}
    rows = np.fromiter((places.setdefault(text, len(places)) for text in texts), dtype=np.int64)
    return DistinctTexts(texts=list(places), rows=rows)


def epoch_order(
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: np.ndarray | None = None,
    together: int | None = None,
    batch: int | None = None,
) -> np.ndarray:
    """Return the order of the rows in an epoch; it depends on the seed and the epoch only.

    Args:
        count: Number of rows.
        seed: Seed of the run.
        epoch: Number of the epoch; each has a different order.
        groups: (count,) group of each row, to keep the rows of a group together.
        together: Most rows of a group to keep together; a larger group is divided into parts of nearly equal
            size, by other rows in each epoch. None keeps the whole group together.
        batch: Rows of a batch, so that a batch has at most `together` rows of a group; None orders parts at
            random.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count)
    if groups is None:
        return order
    members = groups[order] if together is None else _parts(groups[order], together)
    # A group moves to the position of its first row; the sort is stable, so its rows stay shuffled.
    _, first, member = np.unique(members, return_index=True, return_inverse=True)
    grouped: np.ndarray = order[np.argsort(first[member], kind="stable")]
    if together is None or batch is None:
        return grouped
    parts = np.sort(first[member], kind="stable")
    spread: np.ndarray = grouped[spread_parts(groups[grouped], parts, batch=batch, most=together)]
    return spread


def _parts(groups: np.ndarray, most: int) -> np.ndarray:
    """Return the part of its group that each row belongs to, numbered over all groups."""
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    by_group = np.argsort(member, kind="stable")
    place = np.empty_like(member)
    place[by_group] = np.arange(len(member)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    parts = -(-sizes // most)
    first_part = np.cumsum(parts) - parts
    numbered: np.ndarray = first_part[member] + place * parts[member] // sizes[member]
    return numbered


def process_share(rows: np.ndarray, *, process_index: int, num_processes: int) -> np.ndarray:
    """Return the part of a global batch that a process computes; parts differ in size by at most one row."""
    return np.array_split(rows, num_processes)[process_index]
