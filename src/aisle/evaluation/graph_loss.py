"""What approximate search costs a ranking: exact search and the graph over the same embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from aisle.evaluation.document import GraphLoss
from aisle.evaluation.retrieval_metrics import evaluate_run
from aisle.evaluation.significance import estimated_mean, paired_differences

__all__ = ["GRAPH_METRIC", "graph_loss"]

GRAPH_METRIC = "ndcg@10"


def graph_loss(
    name: str,
    qrels: Mapping[str, Mapping[str, float]],
    *,
    exact: Mapping[str, Mapping[str, float]],
    graph: Mapping[str, Mapping[str, float]],
    recall_at_10: float,
    relevant_from: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> GraphLoss:
    """Return nDCG@10 of a row by exact search and through the graph, and the difference.

    Args:
        name: of the row.
        qrels: {query id: {product id: relevance}} of the queries that were asked.
        exact: {query id: {product id: score}} by exact search, at least 10 products deep.
        graph: the same through the graph.
        recall_at_10: share of the exact top 10 that the graph finds.
        relevant_from: as for `evaluate_run`.
        resamples: bootstrap draws of the difference's interval.
        seed: of the draws.

    Raises:
        EvaluationError: as for `evaluate_run`.
    """
    before, after = (
        evaluate_run(qrels, run, cutoffs=(10,), relevant_from=relevant_from) for run in (exact, graph)
    )
    lost = paired_differences(before.per_query[GRAPH_METRIC], after.per_query[GRAPH_METRIC])
    return GraphLoss(
        name=name,
        recall_at_10=recall_at_10,
        exact=before.values[GRAPH_METRIC],
        graph=after.values[GRAPH_METRIC],
        difference=estimated_mean(lost, resamples=resamples, seed=seed),
        changed=int((lost != 0).sum()),
    )
