"""The protocol of a graph backend: a search structure over the distinct embeddings of an index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from aisle.index.row_groups import RowGroups
from aisle.index.scoring import FloatArray, Rows, Scores

__all__ = ["BackendParameters", "Found", "GraphBackend", "NodeVectors"]

Found = tuple[Rows, Scores, npt.NDArray[np.bool_]]
"""(answered, nodes) node numbers and cosines, best first, and the (queries,) mask of the answered queries."""


@dataclass(frozen=True, eq=False)
class NodeVectors:
    """The vectors of a graph's nodes: rows with equal embeddings share a node."""

    embeddings: FloatArray
    """(count, dim) float32 or float16, unit L2 norm; may be memory-mapped."""
    groups: RowGroups
    """Rows of each node."""

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def dim(self) -> int:
        """Return the number of components of a vector."""
        return int(self.embeddings.shape[1])

    def take(self, nodes: Rows) -> Scores:
        """Return the vectors of nodes that have a row: (n, dim) float32."""
        return np.asarray(self.embeddings[self.groups.first(nodes)], dtype=np.float32)


class BackendParameters(Protocol):
    """Build parameters of a backend: a frozen dataclass with a default for each field.

    A value has the type of its default. The manifest stores all of them.
    """

    def problems(self) -> list[str]:
        """Return a message for each value that is out of range."""


class GraphBackend(Protocol):
    """A search structure over the nodes 0, 1, 2, ... of an index.

    Ties, rows with equal embeddings, filters, and exact scores and answers are common to all backends, in
    `aisle.index.dense_search` and `aisle.index.filtered_search`. Several threads may search at once.
    """

    name: ClassVar[str]
    """Name in the registry, the manifest and `--backend`."""
    files: ClassVar[tuple[str, ...]]
    """Names of the files that `save` writes; empty if everything is in the embeddings of the index."""
    Parameters: ClassVar[type[Any]]
    """Dataclass of the build parameters, see `BackendParameters`."""
    efforts: ClassVar[tuple[int, ...]]
    """Values of `effort` that tuning tries, lowest first; values between them are valid too. A higher effort
    is slower and finds at least as much. With a single value there is nothing to tune."""

    @classmethod
    def build(
        cls,
        vectors: NodeVectors,
        parameters: Any,
        *,
        threads: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> GraphBackend:
        """Return a structure over the nodes; with `threads=1` builds are repeatable.

        Args:
            vectors: Vector of each node.
            parameters: An instance of `Parameters`.
            threads: Threads that build; None is one per core.
            on_progress: Called with the number of rows placed since the last call.
        """

    @classmethod
    def load(cls, folder: Path, vectors: NodeVectors, parameters: Any) -> GraphBackend:
        """Return the structure that `save` wrote; the checksums of its files have been checked.

        Raises:
            IndexIntegrityError: A file cannot be loaded.
        """

    def save(self, folder: Path) -> None:
        """Write `files` to a folder.

        Raises:
            OSError: A file cannot be written.
            IndexStoreError: A file is incomplete; the message names it.
        """

    def search(self, queries: Scores, *, nodes: int, effort: int, threads: int | None) -> Found:
        """Return the nearest nodes of each query; unanswered queries are then searched exactly.

        Args:
            queries: (queries, dim) float32, unit L2 norm.
            nodes: Nodes per query, fewer than in the index.
            effort: Search effort, in the backend's unit.
            threads: Threads that search; None is one per core.

        Returns:
            Distinct nodes without removed ones, best first; cosines within 1e-6 of
            `aisle.index.scoring.row_scores`; and the mask of the answered queries.
        """

    def add(self, vectors: NodeVectors, *, threads: int | None = None) -> None:
        """Add the nodes from number `len(self)` on.

        Args:
            vectors: Vectors of all nodes, which replace those given to `build` or `load`. Removed nodes have
                no vector.
            threads: Threads that place nodes; None is one per core.
        """

    def remove(self, nodes: Rows) -> None:
        """Exclude nodes from all answers; they keep their numbers until the structure is built again."""

    def __len__(self) -> int:
        """Return the number of nodes, including removed ones."""
