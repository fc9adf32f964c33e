"""hnswlib's HNSW graph as a backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import hnswlib
import numpy as np

from aisle.errors import IndexIntegrityError
from aisle.index.array_files import writing
from aisle.index.backends.graph_backend import Found, NodeVectors
from aisle.index.scoring import Rows, Scores
from aisle.system.processors import available_processors

__all__ = ["GRAPH_FILE", "HnswBackend", "HnswParameters"]

GRAPH_FILE = "graph.bin"
CHUNK_NODES = 4096


@dataclass(frozen=True)
class HnswParameters:
    """Build parameters of the HNSW graph."""

    M: int = 16
    """Links per node, at least 2; higher is larger and closer to exact."""
    ef_construction: int = 200
    """Candidates kept while a node is placed, at least `M`; higher is slower and closer to exact."""

    def problems(self) -> list[str]:
        """Return a message for each value that is out of range."""
        lowest = {"M": (self.M, 2), "ef_construction": (self.ef_construction, self.M)}
        return [
            f"{name} must be at least {low}, found {value}"
            for name, (value, low) in lowest.items()
            if value < low
        ]


class HnswBackend:
    """An HNSW graph in memory; `effort` is `ef_search`, the number of candidates kept while searching.

    The space is hnswlib's inner product. On unit vectors it gives the same order as the cosine, but hnswlib's
    "cosine" would store and compare normalised copies of the vectors.
    """

    name: ClassVar[str] = "hnsw"
    files: ClassVar[tuple[str, ...]] = (GRAPH_FILE,)
    Parameters: ClassVar[type[HnswParameters]] = HnswParameters
    # A search for ten products keeps at least ten candidates, so recall@10 cannot be lower than at 10.
    efforts: ClassVar[tuple[int, ...]] = (
        *(10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048),
    )

    def __init__(self, index: Any, *, live: int) -> None:
        self.index = index
        """The hnswlib index; its labels are node numbers."""
        self._live = live  # nodes that were not removed
        # hnswlib keeps max(ef, k) candidates, and all threads share `ef`. With the lowest `ef`, the `k` of a
        # search decides alone, so searches of different efforts can run at the same time without a lock.
        index.set_ef(1)

    @classmethod
    def build(
        cls,
        vectors: NodeVectors,
        parameters: HnswParameters,
        *,
        threads: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> HnswBackend:
        """Return a graph of the nodes; see `GraphBackend.build`."""
        index = hnswlib.Index(space="ip", dim=vectors.dim)
        index.init_index(
            max_elements=len(vectors),
            M=parameters.M,
            ef_construction=parameters.ef_construction,
            random_seed=100,
        )
        graph = cls(index, live=len(vectors))
        graph._place(vectors, first=0, threads=threads, on_progress=on_progress)
        return graph

    @classmethod
    def load(cls, folder: Path, vectors: NodeVectors, parameters: HnswParameters) -> HnswBackend:
        """Return a saved graph. Check its checksum first, because hnswlib does not check the file.

        Raises:
            IndexIntegrityError: hnswlib cannot load the file.
        """
        index = hnswlib.Index(space="ip", dim=vectors.dim)
        try:
            index.load_index(str(folder / GRAPH_FILE))
        except RuntimeError as error:
            raise IndexIntegrityError(
                f"{folder / GRAPH_FILE}: hnswlib refuses it: {error}; build the index again"
            ) from None
        return cls(index, live=vectors.groups.live)

    def save(self, folder: Path) -> None:
        """Write the graph.

        Raises:
            IndexStoreError: The file is incomplete; hnswlib itself reports no error if the disk is full.
        """
        path = folder / GRAPH_FILE
        with writing(path):
            self.index.save_index(str(path))
            expected, found = self.index.index_file_size(), path.stat().st_size
            if found != expected:
                raise OSError(f"{expected} bytes were to be written, {found} were; is the disk full?")

    def search(self, queries: Scores, *, nodes: int, effort: int, threads: int | None) -> Found:
        """Return the nearest nodes; a query that reaches fewer than `effort` nodes is left unanswered."""
        try:
            found = self.nearest(queries, nodes=nodes, effort=effort, threads=threads)
            return *found, np.ones(len(queries), bool)
        except RuntimeError as error:
            if "contiguous 2D array" not in str(
                error
            ):  # in hnswlib's message for "found fewer than requested"
                raise
        if len(queries) == 1:
            return np.empty((0, nodes), np.int64), np.empty((0, nodes), np.float32), np.zeros(1, bool)
        first, second = (
            self.search(half, nodes=nodes, effort=effort, threads=threads)
            for half in np.array_split(queries, 2)
        )
        return (
            np.concatenate([first[0], second[0]]),
            np.concatenate([first[1], second[1]]),
            np.concatenate([first[2], second[2]]),
        )

    def nearest(
        self, queries: Scores, *, nodes: int, effort: int, threads: int | None
    ) -> tuple[Rows, Scores]:
        """Return (queries, nodes) node numbers and (queries, nodes) cosines, best first.

        The cosines are float32 sums by hnswlib, one pair at a time: within 1e-6 of `row_scores`.

        Raises:
            RuntimeError: A query reaches fewer nodes than `nodes` or `effort`, as in a graph that is not
                connected.
        """
        count = threads or (1 if len(queries) == 1 else available_processors())
        kept = max(nodes, min(effort, self._live))
        labels, distances = self.index.knn_query(queries, k=kept, num_threads=count)
        return labels[:, :nodes].astype(np.int64), 1 - distances[:, :nodes]

    def add(self, vectors: NodeVectors, *, threads: int | None = None) -> None:
        """Add the nodes from number `len(self)` on."""
        if len(vectors) > self.index.get_max_elements():
            self.index.resize_index(len(vectors))
        self._place(vectors, first=len(self), threads=threads)
        self._live = vectors.groups.live

    def remove(self, nodes: Rows) -> None:
        """Mark nodes as deleted: searches pass through them and never return them."""
        for node in nodes.tolist():
            self.index.mark_deleted(node)
        self._live -= len(nodes)

    def __len__(self) -> int:
        return int(self.index.get_current_count())

    def _place(
        self,
        vectors: NodeVectors,
        *,
        first: int,
        threads: int | None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        for start in range(first, len(vectors), CHUNK_NODES):
            nodes = np.arange(start, min(start + CHUNK_NODES, len(vectors)))
            self.index.add_items(vectors.take(nodes), nodes, num_threads=threads or available_processors())
            if on_progress is not None:
                on_progress(int(vectors.groups.sizes(nodes).sum()))
