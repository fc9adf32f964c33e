"""The row of a reranker: the best products of another row, ordered by a cross-encoder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.output import Output
from aisle.data.judged_queries import JudgedQueries
from aisle.errors import ConfigError
from aisle.evaluation.retrieval_metrics import RetrievalMetrics
from aisle.evaluation.significance import bootstrap_interval, paired_differences
from aisle.index import SearchIndex
from aisle.search.rankings import Run
from aisle.search.rerank_stage import rerank_stage
from aisle.search.rerankers import load_reranker
from aisle.types.columns import TEXT_COLUMN


@dataclass(frozen=True)
class RerankedRow:
    """Rankings of a row after reranking.

    Args:
        name: Name of the row.
        first: Name of the row that was reranked.
        run: The rankings.
        depth: Products per query that the reranker scored.
        milliseconds: Mean time of the reranker per query.
    """

    name: str
    first: str
    run: Run
    depth: int
    milliseconds: float

    def verdict(self, metrics: Mapping[str, RetrievalMetrics], *, resamples: int, seed: int) -> str:
        """Return a sentence on whether the reranker helps: whether the lower bound of its gain is above zero.

        Args:
            metrics: Row -> figures per query.
            resamples: Bootstrap samples for the interval.
            seed: Seed of the samples.
        """
        before, after = metrics[self.first].per_query, metrics[self.name].per_query
        of_rank = [name for name in before if name.startswith("ndcg")]
        metric = "ndcg@10" if "ndcg@10" in before else of_rank[0]
        gains = paired_differences(before[metric], after[metric])
        low, high = bootstrap_interval(gains, resamples=resamples, seed=seed)
        helps = "it helps" if low > 0 else "the interval does not lie above zero, so do not serve it"
        return (
            f"reranker: over the {self.depth} best products of {self.first}, {metric} changes by "
            f"{gains.mean():+.4f} [{low:+.4f}, {high:+.4f}]: {helps}; a query takes "
            f"{self.milliseconds:.0f} ms here"
        )


def rerank_row(
    settings: EvaluateSettings,
    index: SearchIndex,
    judged: JudgedQueries,
    first: str,
    run: Run,
    output: Output,
) -> RerankedRow:
    """Return a row with the best products of another row, ordered by --reranker.

    Products with equal scores keep their order, and those beyond --rerank_depth follow in theirs.

    Raises:
        ConfigError: The index stores no texts.
        ModelError: The reranker cannot be loaded, or fails.
    """
    if TEXT_COLUMN not in index.products.column_names:
        raise ConfigError("--reranker: reads texts, and the index stores none; build it again with them")
    mode = None if settings.fusion == "rrf" else settings.mode
    stage = rerank_stage(load_reranker(str(settings.reranker)), mode, also_dropped=True)
    assert stage is not None
    texts = index.products.column(TEXT_COLUMN)
    rows = run.rows.copy()
    started = time.perf_counter()
    with output.progress("reranking", len(run)) as bar:
        for query_id, place in run.places.items():
            first_rows = rows[place, : settings.rerank_depth]
            answered = first_rows[first_rows >= 0]
            found = texts.take(pa.array(answered)).to_pylist()
            scores = stage.scores(judged.queries[query_id], found, run.scores[place, : len(answered)])
            rows[place, : len(answered)] = answered[np.argsort(-scores, kind="stable")]
            bar.advance(1)
    seconds = time.perf_counter() - started
    # Scores that fall with the rank: metrics must not break ties by the product id.
    scores = np.broadcast_to(-np.arange(rows.shape[1], dtype=np.float32), rows.shape).copy()
    return RerankedRow(
        name=f"{first}+reranker",
        first=first,
        run=replace(run, rows=rows, scores=scores),
        depth=min(settings.rerank_depth, rows.shape[1]),
        milliseconds=1000 * seconds / max(len(run), 1),
    )
