"""An HNSW graph over the distinct embeddings of an index, and search through it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt

from aisle.index.row_groups import RowGroups
from aisle.index.scoring import FloatArray, Rows, Scores, best_per_query, exact_search
from aisle.system.processors import available_processors

__all__ = [
    "HnswGraph",
    "approximate_search",
    "build_graph",
    "load_graph",
    "save_graph",
]

BUILD_CHUNK = 4096
SEARCH_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class HnswGraph:
    """A graph in memory and the rows its nodes stand for."""

    index: Any
    """The hnswlib index; its labels are node numbers."""
    groups: RowGroups
    lock: threading.Lock = field(default_factory=threading.Lock)
    """hnswlib keeps `ef` in the index: two searches with different ones must not meet."""

    def nearest(
        self, query_embeddings: Scores, *, nodes: int, ef_search: int, threads: int | None
    ) -> tuple[Rows, Scores]:
        """Return (queries, nodes) node numbers and (queries, nodes) cosines, best first.

        The cosines are hnswlib's float32 sums, each pair by itself: within 1e-6 of `row_scores`.

        Raises:
            RuntimeError: a query reaches fewer than `nodes` nodes, as in a graph that is not connected.
        """
        count = threads or (1 if len(query_embeddings) == 1 else available_processors())
        with self.lock:
            self.index.set_ef(max(ef_search, nodes))
            labels, distances = self.index.knn_query(query_embeddings, k=nodes, num_threads=count)
        return labels.astype(np.int64), 1 - distances


def build_graph(
    embeddings: FloatArray,
    groups: RowGroups,
    *,
    M: int,
    ef_construction: int,
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> HnswGraph:
    """Return a graph with one node per group; with `threads=1` the same every time.

    The space is hnswlib's inner product: on unit vectors it orders as the cosine does, and unlike its
    "cosine" it stores and compares the vectors as they are instead of normalised copies.

    Args:
        embeddings: (count, dim) float32 or float16, unit L2 norm.
        groups: rows of each node; their embeddings are equal.
        M: links per node.
        ef_construction: candidates kept while a node is placed.
        threads: None is one per core.
        on_progress: called with the number of rows placed since the last call.
    """
    index = hnswlib.Index(space="ip", dim=embeddings.shape[1])
    index.init_index(max_elements=len(groups), M=M, ef_construction=ef_construction, random_seed=100)
    for start in range(0, len(groups), BUILD_CHUNK):
        nodes = np.arange(start, min(start + BUILD_CHUNK, len(groups)))
        vectors = np.asarray(embeddings[groups.first(nodes)], dtype=np.float32)
        index.add_items(vectors, nodes, num_threads=threads or available_processors())
        if on_progress is not None:
            on_progress(int(groups.sizes(nodes).sum()))
    return HnswGraph(index=index, groups=groups)


def save_graph(path: Path, graph: HnswGraph) -> None:
    """Write the graph.

    Raises:
        OSError: the file is not whole afterwards; hnswlib itself says nothing when the disk is full.
    """
    graph.index.save_index(str(path))
    expected, found = graph.index.index_file_size(), path.stat().st_size
    if found != expected:
        raise OSError(f"{expected} bytes were to be written, {found} were; is the disk full?")


def load_graph(path: Path, groups: RowGroups, *, dim: int) -> HnswGraph:
    """Return a saved graph; the file must have been checked, because hnswlib trusts it.

    Args:
        path: of the file.
        groups: the rows that its nodes stand for.
        dim: components of an embedding.

    Raises:
        RuntimeError: hnswlib refuses the file.
    """
    index = hnswlib.Index(space="ip", dim=dim)
    index.load_index(str(path))
    return HnswGraph(index=index, groups=groups)


def approximate_search(
    graph: HnswGraph,
    embeddings: FloatArray,
    query_embeddings: Scores,
    *,
    top_k: int,
    tie_ranks: Rows,
    ef_search: int,
    threads: int | None = None,
) -> tuple[Rows, Scores]:
    """Return the rows and scores of the `top_k` products per query that the graph leads to, best first.

    The scores are those by which the graph is followed: to compute them once more takes longer than the 10%
    that this may cost over hnswlib's bare search (docs/results.md). A query whose part of the graph is too
    small for `top_k`, and a `top_k` that takes every node anyway, are searched exactly.

    Args:
        graph: graph over `embeddings`.
        embeddings: (count, dim) float32 or float16, unit L2 norm.
        query_embeddings: (queries, dim) float32, unit L2 norm.
        top_k: products per query, 1 <= top_k <= count.
        tie_ranks: (count,) order among equal scores, lowest first.
        ef_search: candidates kept while searching; `top_k` where that is more.
        threads: None is one per core.

    Returns:
        (queries, top_k) rows and (queries, top_k) scores.
    """
    rows = np.empty((len(query_embeddings), top_k), np.int64)
    scores = np.empty((len(query_embeddings), top_k), np.float32)
    for start in range(0, len(query_embeddings), SEARCH_BLOCK):
        asked = query_embeddings[start : start + SEARCH_BLOCK]
        nodes, cosines, answered = reachable_nodes(
            graph, asked, top_k=top_k, ef_search=ef_search, threads=threads
        )
        by_graph, exactly = start + np.flatnonzero(answered), start + np.flatnonzero(~answered)
        if len(by_graph):
            rows[by_graph], scores[by_graph] = _rows_of_nodes(
                graph.groups, nodes, cosines, top_k=top_k, tie_ranks=tie_ranks
            )
        if len(exactly):
            rows[exactly], scores[exactly] = exact_search(
                embeddings, asked[~answered], top_k=top_k, tie_ranks=tie_ranks
            )
    return rows, scores


def reachable_nodes(
    graph: HnswGraph, asked: Scores, *, top_k: int, ef_search: int, threads: int | None
) -> tuple[Rows, Scores, npt.NDArray[np.bool_]]:
    """Return the nodes that the graph leads to, best first, and which queries it can answer.

    Returns:
        (answered, top_k) nodes and (answered, top_k) cosines, as in `HnswGraph.nearest`, and the (queries,)
        mask of the answered.
    """
    none = np.empty((0, top_k), np.int64), np.empty((0, top_k), np.float32)
    if top_k >= graph.groups.live:
        return *none, np.zeros(len(asked), bool)
    try:
        found = graph.nearest(asked, nodes=top_k, ef_search=ef_search, threads=threads)
        return *found, np.ones(len(asked), bool)
    except RuntimeError as error:
        if "contiguous 2D array" not in str(error):  # hnswlib's words for "fewer found than asked"
            raise
    if len(asked) == 1:
        return *none, np.zeros(1, bool)
    first, second = (
        reachable_nodes(graph, half, top_k=top_k, ef_search=ef_search, threads=threads)
        for half in np.array_split(asked, 2)
    )
    return (
        np.concatenate([first[0], second[0]]),
        np.concatenate([first[1], second[1]]),
        np.concatenate([first[2], second[2]]),
    )


def _rows_of_nodes(
    groups: RowGroups, nodes: Rows, scores: Scores, *, top_k: int, tie_ranks: Rows
) -> tuple[Rows, Scores]:
    """Return the (queries, top_k) rows and scores of (queries, top_k) nodes, which come best first."""
    rows = groups.first(nodes)
    # Where each node is one row and no two scores are equal, that is the answer.
    distinct = (groups.sizes(nodes) == 1).all(axis=1) & (scores[:, 1:] < scores[:, :-1]).all(axis=1)
    if not distinct.all():
        rows[~distinct], scores[~distinct] = _opened(
            groups, nodes[~distinct], scores[~distinct], top_k=top_k, tie_ranks=tie_ranks
        )
    return rows, scores


def _opened(
    groups: RowGroups, nodes: Rows, scores: Scores, *, top_k: int, tie_ranks: Rows
) -> tuple[Rows, Scores]:
    """Return the (queries, top_k) rows and scores of (queries, top_k) nodes, which come best first.

    Groups are opened only down to the node that completes top_k and those level with it: one group may hold
    a large part of the catalogue.
    """
    take = np.minimum(groups.sizes(nodes), top_k)
    needed = np.cumsum(take, axis=1) - take < top_k
    last = np.where(needed, scores, np.inf).min(axis=1, keepdims=True)
    take = np.where(scores >= last, take, 0).ravel()
    return best_per_query(
        np.repeat(np.repeat(np.arange(len(nodes)), top_k), take),
        groups.first_rows(nodes.ravel(), take),
        np.repeat(scores.ravel(), take),
        tie_ranks=tie_ranks,
        top_k=top_k,
        queries=len(nodes),
    )
