"""Loss of nDCG@10 when a system is searched through the graph instead of exactly."""

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
    """Return nDCG@10 of a system by exact search and through the graph, and the difference.

    Args:
        name: Name of the system.
        qrels: {query id: {product id: relevance}} of the evaluated queries.
        exact: {query id: {product id: score}} by exact search, at least 10 products deep.
        graph: {query id: {product id: score}} by graph search, over the same embeddings.
        recall_at_10: Share of the exact top 10 that the graph finds.
        relevant_from: Lowest relevance, above 0, of a relevant product; None means above 0.
        resamples: Bootstrap draws for the interval of the difference.
        seed: Seed of the draws.

    Raises:
        EvaluationError: As for `evaluate_run`.
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
