"""Search the products that satisfy a filter: exactly if they are few, otherwise with the graph."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from aisle.index.dense_search import Graph
from aisle.index.row_groups import RowGroups
from aisle.index.scoring import FloatArray, Rows, Scores, best_per_query, exact_search, pair_scores

__all__ = ["Condition", "Mask", "filtered_search"]

Mask = npt.NDArray[np.bool_]
Condition: TypeAlias = str | Mask
"""A condition on the products as text, or the mask of the products that satisfy it."""

EXACT_ROWS = 10_000
"""Up to this many rows are always searched exactly, in 3 ms for a query of 384 components."""
ROWS_PER_NODE = 20
"""Rows that exact search compares in the time that the graph needs for a node, about 5 microseconds."""
MARGIN = 3.0
"""Nodes to request, as a multiple of the nodes needed if a filter kept the same share everywhere."""
TRUSTED = 0.5
"""Share of the returned nodes, nearest first, that must hold the answer. If the neighbours of most queries
fail the filter, recall@10 is 0.960 with 1.0 and 0.996 with 0.5 (20,000 clustered vectors, a tenth kept)."""
GATHERED_ROWS = 8_192
ASKED_NODES = 2**20


def filtered_search(
    graph: Graph,
    embeddings: FloatArray,
    query_embeddings: Scores,
    *,
    satisfying: Mask,
    top_k: int,
    tie_ranks: Rows,
    effort: int,
    exact: bool = False,
    threads: int | None = None,
) -> tuple[Rows, Scores]:
    """Search the products that satisfy a filter; return rows and scores per query, best first.

    The graph returns enough nodes for `top_k` satisfying rows on average, and then twice as many for a query
    that did not find them. If comparing all satisfying rows is faster, the graph is not used. The path of a
    query does not depend on the other queries.

    Args:
        graph: Graph over `embeddings`.
        embeddings: (count, dim) float32 or float16, unit L2 norm; a memory map is read in parts.
        query_embeddings: (queries, dim) float32, unit L2 norm.
        satisfying: (count,) bool, whether each row satisfies the filter.
        top_k: Products per query, at least 1.
        tie_ranks: (count,) order among equal scores, lowest first.
        effort: Search effort; at least as many nodes are requested.
        exact: Whether to compare with every satisfying row.
        threads: Threads that search the graph; None is one per core.

    Returns:
        (queries, kept) rows and (queries, kept) scores, where kept is `top_k` or the number of satisfying
        rows if that is less.
    """
    kept_rows = np.flatnonzero(satisfying)
    top_k = min(top_k, len(kept_rows))
    rows = np.empty((len(query_embeddings), top_k), np.int64)
    scores = np.empty((len(query_embeddings), top_k), np.float32)
    if not top_k:
        return rows, scores
    left = np.arange(len(query_embeddings))
    if not exact and len(kept_rows) > EXACT_ROWS:
        groups = _satisfying_groups(graph.groups, satisfying)
        nodes = max(effort, math.ceil(MARGIN * top_k * graph.groups.live / groups.live))
        while len(left) and nodes < graph.groups.live and nodes * ROWS_PER_NODE < len(kept_rows):
            block = max(1, ASKED_NODES // nodes)
            missed = []
            for part in (left[start : start + block] for start in range(0, len(left), block)):
                answered, found_rows, found_scores = _through_graph(
                    graph,
                    groups,
                    embeddings,
                    query_embeddings[part],
                    nodes=nodes,
                    effort=effort,
                    top_k=top_k,
                    tie_ranks=tie_ranks,
                    threads=threads,
                )
                rows[part[answered]], scores[part[answered]] = found_rows, found_scores
                missed.append(part[~answered])
            left = np.concatenate(missed)
            nodes *= 2
    if len(left):
        rows[left], scores[left] = _exact_among(
            kept_rows, embeddings, query_embeddings[left], top_k=top_k, tie_ranks=tie_ranks
        )
    return rows, scores


def _satisfying_groups(groups: RowGroups, satisfying: Mask) -> RowGroups:
    """Return the groups without rows that fail the filter; a node may be left without a row."""
    held = satisfying[groups.rows]
    starts = np.concatenate([[0], np.cumsum(held)])[groups.starts]
    return RowGroups(rows=groups.rows[held], starts=starts, live=int(np.count_nonzero(np.diff(starts))))


def _through_graph(
    graph: Graph,
    groups: RowGroups,
    embeddings: FloatArray,
    asked: Scores,
    *,
    nodes: int,
    effort: int,
    top_k: int,
    tie_ranks: Rows,
    threads: int | None,
) -> tuple[Mask, Rows, Scores]:
    """Search the graph; return which queries found `top_k` rows of `groups`, and their answers.

    Returns:
        (queries,) mask, (answered, top_k) rows and (answered, top_k) scores.
    """
    reached, _, answered = graph.backend.search(asked, nodes=nodes, effort=effort, threads=threads)
    sizes = groups.sizes(reached)
    # The nearest nodes come first; a graph misses more of the last.
    trusted = math.ceil(nodes * TRUSTED)
    enough = np.minimum(sizes[:, :trusted], top_k).sum(axis=1) >= top_k
    answered[answered] = enough
    if not enough.any():
        return answered, np.empty((0, top_k), np.int64), np.empty((0, top_k), np.float32)
    query_of, place = np.nonzero(sizes[enough])
    rows, scores = _best_rows(
        groups,
        reached[enough][query_of, place],
        query_of,
        embeddings,
        asked[answered],
        top_k=top_k,
        tie_ranks=tie_ranks,
    )
    return answered, rows, scores


def _best_rows(
    groups: RowGroups,
    nodes: Rows,
    query_of: Rows,
    embeddings: FloatArray,
    asked: Scores,
    *,
    top_k: int,
    tie_ranks: Rows,
) -> tuple[Rows, Scores]:
    """Return the (queries, top_k) best rows and scores among (pairs,) nodes, which hold at least `top_k`."""
    scores = pair_scores(embeddings, groups.first(nodes), asked, query_of)
    order = np.lexsort((-scores, query_of))
    nodes, query_of, scores = nodes[order], query_of[order], scores[order]
    # Only nodes down to the one that completes top_k, and nodes with its score, are expanded to rows.
    take = np.minimum(groups.sizes(nodes), top_k)
    before = np.cumsum(take) - take
    needed = before - before[np.searchsorted(query_of, query_of)] < top_k
    last = np.full(len(asked), np.inf, np.float32)
    np.minimum.at(last, query_of[needed], scores[needed])
    take[scores < last[query_of]] = 0
    return best_per_query(
        np.repeat(query_of, take),
        groups.first_rows(nodes, take),
        np.repeat(scores, take),
        tie_ranks=tie_ranks,
        top_k=top_k,
        queries=len(asked),
    )


def _exact_among(
    kept_rows: Rows, embeddings: FloatArray, asked: Scores, *, top_k: int, tie_ranks: Rows
) -> tuple[Rows, Scores]:
    """Return the (queries, top_k) best of (kept,) rows and their scores; rows are read in parts."""
    queries = len(asked)
    rows = np.empty((queries, 0), np.int64)
    scores = np.empty((queries, 0), np.float32)
    for start in range(0, len(kept_rows), GATHERED_ROWS):
        part = kept_rows[start : start + GATHERED_ROWS]
        offsets, found = exact_search(
            embeddings[part], asked, top_k=min(top_k, len(part)), tie_ranks=tie_ranks[part]
        )
        rows, scores = np.hstack([rows, part[offsets]]), np.hstack([scores, found])
        rows, scores = best_per_query(
            np.repeat(np.arange(queries), rows.shape[1]),
            rows.ravel(),
            scores.ravel(),
            tie_ranks=tie_ranks,
            top_k=top_k,
            queries=queries,
        )
    return rows, scores
