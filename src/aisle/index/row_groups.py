"""Rows with equal embeddings, which share a node of the graph.

hnswlib links a node to its nearest neighbours. A thousand equal vectors would link only to each other, and a
search that reaches them could not leave them. Therefore equal vectors share a node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from aisle.index.scoring import FloatArray, Rows

__all__ = ["RowGroups", "first_of_equals", "number_nodes", "row_digests"]

DIGEST_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Rows of each node of the graph."""

    rows: Rows
    """Rows, (count,), node by node; within a node by rank of product id."""
    starts: Rows
    """Start of each node's rows in `rows`, (nodes + 1,)."""
    live: int
    """Number of nodes with a row; the products of other nodes were removed."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, node_of_row: Rows, tie_ranks: Rows, *, nodes: int | None = None) -> RowGroups:
        """Return the groups for the node of each row.

        Args:
            node_of_row: Node of each row, (count,).
            tie_ranks: Rank of each product's id among the sorted ids, (count,).
            nodes: Number of nodes of the graph, including nodes without a row; None if every node has a row.
        """
        sizes = np.bincount(node_of_row, minlength=nodes or 0)
        return cls(
            rows=np.lexsort((tie_ranks, node_of_row)),
            starts=np.concatenate([[0], np.cumsum(sizes)]),
            live=int(np.count_nonzero(sizes)),
        )

    def first(self, nodes: Rows) -> Rows:
        """Return the row of the lowest product id of each node, in the shape of `nodes`."""
        return self.rows[self.starts[nodes]]

    def sizes(self, nodes: Rows) -> Rows:
        """Return the number of rows of each node, in the shape of `nodes`."""
        return self.starts[nodes + 1] - self.starts[nodes]

    def first_rows(self, nodes: Rows, take: Rows) -> Rows:
        """Return the first `take` rows of each node, (n,), one node after the other."""
        offset = np.arange(take.sum()) - np.repeat(np.cumsum(take) - take, take)
        rows: Rows = self.rows[np.repeat(self.starts[nodes], take) + offset]
        return rows


def number_nodes(embeddings: FloatArray) -> Rows:
    """Return a node number per row, (count,): equal for rows of equal bytes, in order of first occurrence.

    Rows are compared by `row_digests`, 16 bytes a row in memory.
    """
    first = first_of_equals(row_digests(embeddings))
    number = np.cumsum(first == np.arange(len(first))) - 1
    nodes: Rows = number[first]
    return nodes


def first_of_equals(digests: npt.NDArray[np.void]) -> Rows:
    """Return the first row with the same digest for each row, (rows,).

    This takes 40 bytes a row in memory; `np.unique` takes 90.

    Args:
        digests: Digests of 16 bytes, (rows,).
    """
    order = np.argsort(digests, kind="stable")
    ranked = digests[order]
    starts = np.concatenate([[0], np.flatnonzero(ranked[1:] != ranked[:-1]) + 1])[: len(digests)]
    del ranked
    first = np.empty(len(digests), np.int64)
    first[order] = np.repeat(order[starts], np.diff(starts, append=len(digests)))
    return first


def row_digests(embeddings: FloatArray, rows: Rows | None = None) -> npt.NDArray[np.void]:
    """Return 128-bit XXH3 digests of the bytes of rows, (rows,); None is all rows.

    XXH3 takes a tenth of BLAKE2b's time, which was 3% of the time to build a graph. A cryptographic digest is
    not needed, because nobody makes embeddings that collide on purpose.
    """
    digests = bytearray()
    count = len(embeddings) if rows is None else len(rows)
    for start in range(0, count, DIGEST_CHUNK):
        part = slice(start, start + DIGEST_CHUNK)
        chosen = np.ascontiguousarray(embeddings[part if rows is None else rows[part]])
        digests += b"".join(map(xxh3_128_digest, chosen))
    return np.frombuffer(digests, "V16")
