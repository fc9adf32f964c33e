"""Choose the search effort of an index: measure recall and time on held-out queries."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from aisle.errors import ConfigError
from aisle.index.dense_search import Graph, approximate_search
from aisle.index.manifest import CurvePoint
from aisle.index.scoring import FloatArray, Rows, Scores, ann_recall, exact_search

__all__ = ["DEFAULT_TARGET", "Tuning", "held_out_queries", "tune"]

TOP_K = 10
QUERIES = 500
DEFAULT_TARGET = 0.98


@dataclass(frozen=True)
class Tuning:
    """Chosen search effort, and the measurements behind it."""

    effort: int
    """Chosen search effort, in the backend's unit: `ef_search` for hnswlib."""
    recall: float
    """recall@10 at `effort`."""
    curve: tuple[CurvePoint, ...]
    target: float | None
    queries: int

    @property
    def reached(self) -> bool:
        """Return whether `effort` reaches the target recall."""
        return self.target is None or self.recall >= self.target


def held_out_queries(stored: FloatArray, *, queries: int = QUERIES) -> Scores:
    """Return (queries, dim) float32 unit vectors near the products, but not equal to them.

    Each is a product's embedding, moved a third of the way to another product's embedding. They replace
    real queries, if there are none. The same products give the same queries.
    """
    rng = np.random.default_rng(0)
    count = min(queries, len(stored))
    near = np.sort(rng.choice(len(stored), size=count, replace=False))
    far = (near + rng.integers(1, max(2, len(stored)), size=count)) % len(stored)
    mixed = 2 * stored[near].astype(np.float64) + stored[far].astype(np.float64)
    norms = np.linalg.norm(mixed, axis=1, keepdims=True)
    # Opposite embeddings cancel out; then the first of the two is the query.
    mixed = np.where(norms > 1e-6, mixed / np.maximum(norms, 1e-6), stored[near])
    return mixed.astype(np.float32)


def tune(
    graph: Graph,
    stored: FloatArray,
    queries: Scores,
    *,
    tie_ranks: Rows,
    ef_search: int | None = None,
    target_recall: float | None = None,
    threads: int | None = None,
) -> Tuning:
    """Return the smallest `ef_search` that reaches the target recall@10, or measure a given `ef_search`.

    Args:
        graph: Graph over `stored`.
        stored: Stored embeddings, (count, dim).
        queries: Embeddings of the queries, (queries, dim) float32, unit L2 norm.
        tie_ranks: Order among equal scores, (count,), lowest first.
        ef_search: Value to measure; None chooses it by `target_recall`.
        target_recall: Recall to reach, in [0, 1]; `DEFAULT_TARGET` if neither is given.
        threads: Threads that search; None is one per core. Times are measured on one thread.

    Raises:
        ConfigError: If both are given, or the target is not in [0, 1].
    """
    if ef_search is not None and target_recall is not None:
        raise ConfigError("ef_search and target_recall: give one of them; the recall decides ef_search")
    if target_recall is not None and not 0 <= target_recall <= 1:
        raise ConfigError(f"target_recall must be from 0 to 1, found {target_recall}")
    target = None if ef_search is not None else (DEFAULT_TARGET if target_recall is None else target_recall)
    measured = _Measure(graph, stored, queries, tie_ranks, threads)
    if ef_search is not None:
        return measured.tuning(ef_search, None)
    below = None
    # An effort above the number of nodes finds no more than an effort equal to it.
    for effort in sorted({min(effort, len(graph.groups)) for effort in graph.backend.efforts}):
        if measured.recall(effort) >= (target or 0):
            chosen = effort if below is None else _smallest(measured, below, effort, target or 0)
            return measured.tuning(chosen, target)
        below = effort
    return measured.tuning(max(measured.points), target)


def _smallest(measured: _Measure, below: int, reaching: int, target: float) -> int:
    """Return the smallest value that reaches the target, above `below` and at most `reaching`."""
    while reaching - below > max(1, reaching // 16):
        middle = (below + reaching) // 2
        if measured.recall(middle) >= target:
            reaching = middle
        else:
            below = middle
    return reaching


class _Measure:
    """Recall and time of searches, each measured once."""

    def __init__(
        self, graph: Graph, stored: FloatArray, queries: Scores, tie_ranks: Rows, threads: int | None
    ) -> None:
        self.graph, self.stored, self.queries = graph, stored, queries
        self.tie_ranks, self.threads = tie_ranks, threads
        self.top_k = min(TOP_K, len(stored))
        self.exact = exact_search(stored, queries, top_k=self.top_k, tie_ranks=tie_ranks)
        self.points: dict[int, CurvePoint] = {}

    def recall(self, effort: int) -> float:
        if effort not in self.points:
            rows, scores = self._search(self.queries, effort, self.threads)
            recall = ann_recall(rows, self.exact[0], approximate_scores=scores, exact_scores=self.exact[1])
            timed = self.queries[:100]
            started = time.perf_counter()
            self._search(timed, effort, 1)
            spent = (time.perf_counter() - started) / len(timed) * 1000
            self.points[effort] = CurvePoint(effort, recall, round(spent, 4))
        return self.points[effort].recall

    def tuning(self, effort: int, target: float | None) -> Tuning:
        recall = self.recall(effort)
        curve = tuple(self.points[tried] for tried in sorted(self.points))
        return Tuning(effort, recall, curve, target, len(self.queries))

    def _search(self, queries: Scores, effort: int, threads: int | None) -> tuple[Rows, Scores]:
        return approximate_search(
            self.graph,
            self.stored,
            queries,
            top_k=self.top_k,
            tie_ranks=self.tie_ranks,
            effort=effort,
            threads=threads,
        )
