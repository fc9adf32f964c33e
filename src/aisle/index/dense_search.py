"""Search by embeddings: a backend finds nodes, their rows are ranked, and unanswered queries are scanned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from aisle.index.backends import GraphBackend, NodeVectors, backend_named, make_parameters
from aisle.index.row_groups import RowGroups
from aisle.index.scoring import FloatArray, Rows, Scores, best_per_query, exact_search

__all__ = ["Graph", "approximate_search", "build_graph"]

SEARCH_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Graph:
    """A backend, and the rows of each of its nodes."""

    backend: GraphBackend
    groups: RowGroups


def build_graph(
    embeddings: FloatArray,
    groups: RowGroups,
    *,
    backend: str,
    parameters: Mapping[str, object],
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Graph:
    """Return a graph with a node for each group of rows; with `threads=1` builds are repeatable.

    Args:
        embeddings: (count, dim) float32 or float16, unit L2 norm.
        groups: Rows of each node, which have equal embeddings.
        backend: Name of the backend.
        parameters: Parameters of the backend; missing ones have their defaults.
        threads: Threads that build; None is one per core.
        on_progress: Called with the number of rows added since the last call.

    Raises:
        ConfigError: The backend or a parameter is unknown, or a value is out of range.
    """
    chosen = backend_named(backend)
    built = chosen.build(
        NodeVectors(embeddings, groups),
        make_parameters(chosen, parameters),
        threads=threads,
        on_progress=on_progress,
    )
    return Graph(built, groups)


def approximate_search(
    graph: Graph,
    embeddings: FloatArray,
    query_embeddings: Scores,
    *,
    top_k: int,
    tie_ranks: Rows,
    effort: int,
    threads: int | None = None,
) -> tuple[Rows, Scores]:
    """Search the graph; return the rows and scores of `top_k` products per query, best first.

    The scores are the backend's: computing them again would take longer than the 10% that this function may
    add to hnswlib's search alone (docs/results.md). A query that reaches too few nodes is searched exactly,
    and so are all queries if `top_k` needs every node.

    Args:
        graph: Graph over `embeddings`.
        embeddings: (count, dim) float32 or float16, unit L2 norm.
        query_embeddings: (queries, dim) float32, unit L2 norm.
        top_k: Products per query, 1 <= top_k <= count.
        tie_ranks: (count,) order among equal scores, lowest first.
        effort: Search effort, in the backend's unit.
        threads: Threads that search; None is one per core.

    Returns:
        (queries, top_k) rows and (queries, top_k) scores.
    """
    if top_k >= graph.groups.live:
        return exact_search(embeddings, query_embeddings, top_k=top_k, tie_ranks=tie_ranks)
    rows = np.empty((len(query_embeddings), top_k), np.int64)
    scores = np.empty((len(query_embeddings), top_k), np.float32)
    for start in range(0, len(query_embeddings), SEARCH_BLOCK):
        asked = query_embeddings[start : start + SEARCH_BLOCK]
        nodes, cosines, answered = graph.backend.search(asked, nodes=top_k, effort=effort, threads=threads)
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


def _rows_of_nodes(
    groups: RowGroups, nodes: Rows, scores: Scores, *, top_k: int, tie_ranks: Rows
) -> tuple[Rows, Scores]:
    """Return the (queries, top_k) rows and scores of (queries, top_k) nodes, both best first."""
    rows = groups.first(nodes)
    # If each node has a single row and no scores are equal, the nodes are in order.
    distinct = (groups.sizes(nodes) == 1).all(axis=1) & (scores[:, 1:] < scores[:, :-1]).all(axis=1)
    if not distinct.all():
        rows[~distinct], scores[~distinct] = _opened(
            groups, nodes[~distinct], scores[~distinct], top_k=top_k, tie_ranks=tie_ranks
        )
    return rows, scores


def _opened(
    groups: RowGroups, nodes: Rows, scores: Scores, *, top_k: int, tie_ranks: Rows
) -> tuple[Rows, Scores]:
    """Return the (queries, top_k) rows and scores of (queries, top_k) nodes, which are best first.

    Only nodes down to the one that completes `top_k`, and nodes with its score, are expanded to rows: a
    single node may have a large part of the catalogue.
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
