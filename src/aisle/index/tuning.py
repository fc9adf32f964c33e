"""How many candidates a search needs: its recall on held-out queries, and the time it takes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from aisle.errors import ConfigError
from aisle.index.hnsw import HnswGraph, approximate_search
from aisle.index.manifest import CurvePoint
from aisle.index.scoring import FloatArray, Rows, Scores, ann_recall, exact_search

__all__ = ["DEFAULT_TARGET", "Tuning", "held_out_queries", "tune"]

TOP_K = 10
QUERIES = 500
DEFAULT_TARGET = 0.98
STEPS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Values of `ef_search` that are tried, in turn, until the recall is reached."""


@dataclass(frozen=True)
class Tuning:
    """What was measured, and the `ef_search` that follows."""

    ef_search: int
    recall: float
    """recall@10 at `ef_search`."""
    curve: tuple[CurvePoint, ...]
    target: float | None
    queries: int

    @property
    def reached(self) -> bool:
        """Whether `ef_search` gives the recall that was asked for."""
        return self.target is None or self.recall >= self.target


def held_out_queries(stored: FloatArray, *, queries: int = QUERIES) -> Scores:
    """Return (queries, dim) float32 unit vectors near the products and equal to none of them.

    Each is a product's embedding, moved a third of the way to another product's. They stand in for the
    queries that nobody gave; the same products have the same ones.
    """
    rng = np.random.default_rng(0)
    count = min(queries, len(stored))
    near = np.sort(rng.choice(len(stored), size=count, replace=False))
    far = (near + rng.integers(1, max(2, len(stored)), size=count)) % len(stored)
    mixed = 2 * stored[near].astype(np.float64) + stored[far].astype(np.float64)
    norms = np.linalg.norm(mixed, axis=1, keepdims=True)
    # Opposite embeddings cancel out; one of them alone is as good a query.
    mixed = np.where(norms > 1e-6, mixed / np.maximum(norms, 1e-6), stored[near])
    return mixed.astype(np.float32)


def tune(
    graph: HnswGraph,
    stored: FloatArray,
    queries: Scores,
    *,
    tie_ranks: Rows,
    ef_search: int | None = None,
    target_recall: float | None = None,
    threads: int | None = None,
) -> Tuning:
    """Return the smallest `ef_search` that reaches a recall@10, or the recall of a given one.

    Args:
        graph: over `stored`.
        stored: (count, dim) embeddings.
        queries: (queries, dim) float32, unit L2 norm.
        tie_ranks: (count,) order among equal scores.
        ef_search: take this one; None chooses.
        target_recall: recall to reach, in [0, 1]; `DEFAULT_TARGET` where neither is given.
        threads: that search; None is one per core. Times are those of one thread.

    Raises:
        ConfigError: both are given, or the target is not in [0, 1].
    """
    if ef_search is not None and target_recall is not None:
        raise ConfigError("ef_search and target_recall: give one of them; the recall decides ef_search")
    if target_recall is not None and not 0 <= target_recall <= 1:
        raise ConfigError(f"target_recall must be from 0 to 1, found {target_recall}")
    target = None if ef_search is not None else (DEFAULT_TARGET if target_recall is None else target_recall)
    measured = _Measure(graph, stored, queries, tie_ranks, threads)
    if ef_search is not None:
        return measured.tuning(ef_search, None)
    below = 1
    for step in (min(step, len(graph.groups)) for step in STEPS):
        if measured.recall(step) >= (target or 0):
            return measured.tuning(_smallest(measured, below, step, target or 0), target)
        if step == len(graph.groups):
            break
        below = step
    return measured.tuning(max(measured.points), target)


def _smallest(measured: _Measure, below: int, reaching: int, target: float) -> int:
    """Return the smallest value between one that is too low and one that reaches the target."""
    while reaching - below > max(1, reaching // 16):
        middle = (below + reaching) // 2
        if middle < TOP_K:  # a search for ten keeps ten candidates at least
            below = middle
        elif measured.recall(middle) >= target:
            reaching = middle
        else:
            below = middle
    return reaching


class _Measure:
    """Recall and time of searches, each measured once."""

    def __init__(
        self, graph: HnswGraph, stored: FloatArray, queries: Scores, tie_ranks: Rows, threads: int | None
    ) -> None:
        self.graph, self.stored, self.queries = graph, stored, queries
        self.tie_ranks, self.threads = tie_ranks, threads
        self.top_k = min(TOP_K, len(stored))
        self.exact = exact_search(stored, queries, top_k=self.top_k, tie_ranks=tie_ranks)
        self.points: dict[int, CurvePoint] = {}

    def recall(self, ef_search: int) -> float:
        if ef_search not in self.points:
            rows, scores = self._search(self.queries, ef_search, self.threads)
            recall = ann_recall(rows, self.exact[0], approximate_scores=scores, exact_scores=self.exact[1])
            timed = self.queries[:100]
            started = time.perf_counter()
            self._search(timed, ef_search, 1)
            spent = (time.perf_counter() - started) / len(timed) * 1000
            self.points[ef_search] = CurvePoint(ef_search, recall, round(spent, 4))
        return self.points[ef_search].recall

    def tuning(self, ef_search: int, target: float | None) -> Tuning:
        recall = self.recall(ef_search)
        curve = tuple(self.points[ef] for ef in sorted(self.points))
        return Tuning(ef_search, recall, curve, target, len(self.queries))

    def _search(self, queries: Scores, ef_search: int, threads: int | None) -> tuple[Rows, Scores]:
        return approximate_search(
            self.graph,
            self.stored,
            queries,
            top_k=self.top_k,
            tie_ranks=self.tie_ranks,
            ef_search=ef_search,
            threads=threads,
        )
