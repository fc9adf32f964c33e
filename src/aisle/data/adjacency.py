"""Sparse rows of column numbers, and graphs of keys, as sorted arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Adjacency", "BatchExclusions", "Csr", "Ints", "find_sorted"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Csr:
    """Compressed sparse rows of column numbers.

    Attributes:
        indptr: (rows + 1,) int64; row i is `columns[indptr[i] : indptr[i + 1]]`.
        columns: (entries,) int64, sorted and distinct within a row.
    """

    indptr: Ints
    columns: Ints

    @classmethod
    def of(cls, rows: Ints, columns: Ints, *, count: int) -> Csr:
        """Return `count` rows from entries, (entries,) each, that are sorted by row and column."""
        return cls(np.searchsorted(rows, np.arange(count + 1)).astype(np.int64), columns)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def rows(self) -> Ints:
        """The row of each entry, (entries,) int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def take(self, rows: Ints) -> Csr:
        """Return the given rows in the given order; a row can be given several times."""
        lengths = np.diff(self.indptr)[rows]
        indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        places = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], lengths)
        return Csr(indptr, self.columns[places])


@dataclass(frozen=True)
class Adjacency:
    """Neighbours of keys in a graph.

    Attributes:
        keys: (keys,) int64, sorted; the keys that have neighbours.
        neighbours: A row of neighbouring keys for each key.
    """

    keys: Ints
    neighbours: Csr

    @classmethod
    def of(cls, keys: Ints, neighbours: Ints) -> Adjacency:
        """Return the adjacency of edges, (edges,) each; they can be unsorted and repeated."""
        order = np.lexsort((neighbours, keys))
        keys, neighbours = keys[order], neighbours[order]
        new = np.ones(len(keys), dtype=bool)
        new[1:] = (keys[1:] != keys[:-1]) | (neighbours[1:] != neighbours[:-1])
        found, rows = np.unique(keys[new], return_inverse=True)
        return cls(found, Csr.of(rows, neighbours[new], count=len(found)))

    def are_alone(self, keys: Ints, neighbours: Ints) -> bool:
        """Return whether each key has only the given neighbour: (keys,) each."""
        at, known = find_sorted(self.keys, keys)
        if not known.all():
            return False
        start, end = self.neighbours.indptr[at], self.neighbours.indptr[at + 1]
        return bool((end - start == 1).all() and (self.neighbours.columns[start] == neighbours).all())

    def among(self, keys: Ints, targets: Ints) -> Csr:
        """Return for each key the positions of its neighbours in the sorted, distinct `targets`."""
        at, known = find_sorted(self.keys, keys)
        near = self.neighbours.take(at[known])
        places, there = find_sorted(targets, near.columns)
        return Csr.of(np.flatnonzero(known)[near.rows[there]], places[there], count=len(keys))


@dataclass(frozen=True)
class BatchExclusions:
    """For each anchor of a batch, columns to exclude from its negatives.

    Attributes:
        products: Row of product columns for each anchor: its product, equal ones, and the known positives of
            its query.
        queries: Row of query columns for each anchor: its query, equal ones, and those that have its product
            as a known positive.
    """

    products: Csr
    queries: Csr


def find_sorted(values: Ints, wanted: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Return the position of each wanted number among sorted distinct ones, and whether it is there."""
    places = np.searchsorted(values, wanted)
    found = places < len(values)
    found[found] = values[places[found]] == wanted[found]
    return places, found
