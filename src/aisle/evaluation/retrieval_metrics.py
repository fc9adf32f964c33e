"""Quality of rankings compared with judgements: recall, MRR, nDCG and precision, computed by ranx."""

from __future__ import annotations

import functools
import math
import os
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import EvaluationError
from aisle.types.ids import no_common_ids
from aisle.types.sequences import as_sequence

__all__ = ["DEFAULT_CUTOFFS", "MAIN_METRICS", "RetrievalMetrics", "evaluate_run", "table_metrics"]

MAIN_METRICS = ("recall@1", "recall@10", "recall@100", "mrr@10", "ndcg@10", "precision@1")
"""Columns of a table with the default cutoffs; the other metrics add little."""
DEFAULT_CUTOFFS = (1, 10, 100)
CHUNK_QUERIES = 1024
"""Queries measured at a time; their ids with 100 results each take some 10 MiB."""
_ROUNDING = 1e-6
"""A relevance of 0.7 stored as float32 is 0.69999999, and must still meet a threshold of 0.7."""


@dataclass(frozen=True)
class RetrievalMetrics:
    """Means over the evaluated queries, and counts of those left out."""

    values: Mapping[str, float]
    """`recall@k`, `mrr@k`, `ndcg@k` per cutoff, and `precision@1`; all in [0, 1]."""
    queries: int
    """Queries in the means: those with a relevant product."""
    without_relevant: tuple[str, ...]
    """Judged queries without a relevant product; left out of the means."""
    unanswered: tuple[str, ...]
    """Evaluated queries without a result in the run; they count as 0."""
    unjudged: int
    """Queries of the run without judgements; left out of the means."""
    unjudged_shares: Mapping[str, float]
    """By cutoff ("10"): unjudged products in the top k / products in the top k, over all evaluated
    queries; unjudged products count as not relevant. 0 if nothing is ranked."""
    unknown_products: tuple[str, ...] | None
    """Relevant products that are not in the catalogue; they count as missed. None without a
    catalogue."""
    query_ids: tuple[str, ...] = field(repr=False)
    """(queries,) ids in the order of `per_query`."""
    per_query: Mapping[str, NDArray[np.float64]] = field(repr=False, compare=False)
    """{metric: (queries,) float64}, for intervals and paired comparisons."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the values per query, ready for JSON."""
        return {
            **self.values,
            "queries": self.queries,
            "without_relevant": list(self.without_relevant),
            "unanswered": list(self.unanswered),
            "unjudged": self.unjudged,
            "unjudged_shares": dict(self.unjudged_shares),
            "unknown_products": None if self.unknown_products is None else list(self.unknown_products),
        }


@dataclass(frozen=True)
class _Measured:
    """Figures of a chunk of queries: {metric: (queries,) values}, and counts by cutoff."""

    per_query: Mapping[str, NDArray[np.float64]]
    unanswered: tuple[str, ...]
    ranked: Mapping[int, int]
    unjudged: Mapping[int, int]


def evaluate_run(
    qrels: Mapping[str, Mapping[str, float]],
    run: Mapping[str, Mapping[str, float]],
    *,
    cutoffs: Iterable[int] = DEFAULT_CUTOFFS,
    relevant_from: float | None = None,
    known_products: Iterable[str] | None = None,
) -> RetrievalMetrics:
    """Return the metrics of `run` compared with `qrels`.

    For recall, MRR and precision, a product is relevant if its relevance is above 0 or, with
    `relevant_from`, at least that value. Queries without a relevant product are left out of every mean. nDCG
    uses all relevance levels, with linear gains: DCG = sum over ranks i of gain_i / log2(i + 1)
    (Järvelin and Kekäläinen, ACM TOIS 20(4), 2002), divided by the DCG of the ideal order.
    Products with equal scores rank by product id.

    The first call of an installation compiles for 10 to 25 s (cached beside ranx); the first
    call of a later process takes about 2 s, mostly ranx's import.

    Args:
        qrels: {query id: {product id: relevance >= 0}}.
        run: {query id: {product id: score}}, higher is better.
        cutoffs: Values of k for the metrics, each at least 1.
        relevant_from: Lowest relevance, above 0, of a relevant product; None means above 0.
        known_products: Ids in the catalogue; the result lists relevant products outside it.

    Raises:
        EvaluationError: If judgements or run are empty or have no query in common, no query has a
            relevant product, a score is NaN, a relevance is not a finite number >= 0, or a cutoff
            or `relevant_from` is out of range.
    """
    cutoffs = _checked_cutoffs(as_sequence(cutoffs, "cutoffs", EvaluationError))
    if known_products is not None:
        known_products = frozenset(as_sequence(known_products, "known_products", EvaluationError))
    if relevant_from is not None and not relevant_from > 0:
        raise EvaluationError(f"relevant_from must be above 0, found {relevant_from}; None means above 0")
    _check_fit(qrels, run)
    relevant = {query: _relevant(query, judged, relevant_from) for query, judged in qrels.items()}
    query_ids = tuple(query for query, products in relevant.items() if products)
    if not query_ids:
        rule = "above 0" if relevant_from is None else f"of {relevant_from} or more"
        raise EvaluationError(
            f"no judged query (of {len(qrels)}) has a product with relevance {rule}; "
            "check the judgements and relevant_from"
        )
    chunks = [
        _measured(query_ids[start : start + CHUNK_QUERIES], qrels, relevant, run, cutoffs)
        for start in range(0, len(query_ids), CHUNK_QUERIES)
    ]
    per_query = {
        metric: np.concatenate([chunk.per_query[metric] for chunk in chunks])
        for metric in chunks[0].per_query
    }
    return RetrievalMetrics(
        values={metric: float(values.mean()) for metric, values in per_query.items()},
        queries=len(query_ids),
        without_relevant=tuple(query for query, products in relevant.items() if not products),
        unanswered=tuple(query for chunk in chunks for query in chunk.unanswered),
        unjudged=sum(query not in qrels for query in run),
        unjudged_shares={str(k): _unjudged_share(chunks, k) for k in cutoffs},
        unknown_products=_unknown(relevant, known_products),
        query_ids=query_ids,
        per_query=per_query,
    )


def table_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """Return the metrics that a table shows: the main metrics for default cutoffs, all for others."""
    known = tuple(names)
    return MAIN_METRICS if set(known) == set(metric_names(DEFAULT_CUTOFFS)) else known


def metric_names(cutoffs: Iterable[int]) -> list[str]:
    """Return the names of the metrics at these cutoffs: "recall@10" and so on, and "precision@1"."""
    cutoffs = tuple(cutoffs)
    return [*(f"{name}@{k}" for name in ("recall", "mrr", "ndcg") for k in cutoffs), "precision@1"]


def _checked_cutoffs(cutoffs: Sequence[int]) -> tuple[int, ...]:
    if not cutoffs or min(cutoffs) < 1:
        raise EvaluationError(f"cutoffs must be one or more numbers of at least 1, found {tuple(cutoffs)}")
    return tuple(sorted(set(cutoffs)))


def _check_fit(qrels: Mapping[str, Mapping[str, float]], run: Mapping[str, Mapping[str, float]]) -> None:
    if not qrels:
        raise EvaluationError("there are no judgements; give at least one query with a judged product")
    if not run:
        raise EvaluationError("the run is empty: it has no ranking")
    if not qrels.keys() & run.keys():
        raise EvaluationError(
            no_common_ids("query", one="judgements", ours=qrels, other="the run", theirs=run, count=len(run))
        )


def _relevant(query: str, judged: Mapping[str, float], relevant_from: float | None) -> frozenset[str]:
    for product, relevance in judged.items():
        if not (math.isfinite(relevance) and relevance >= 0):
            raise EvaluationError(
                f"judgements, query {query!r}, product {product!r}: a relevance must be a finite number "
                f"of 0 or more, found {relevance}"
            )
    if relevant_from is None:
        return frozenset(product for product, relevance in judged.items() if relevance > 0)
    return frozenset(
        product
        for product, relevance in judged.items()
        if relevance > 0 and relevance >= relevant_from - _ROUNDING
    )


def _ranking(query: str, scores: Mapping[str, float], depth: int) -> list[str]:
    for product, score in scores.items():
        if math.isnan(score):
            raise EvaluationError(
                f"run, query {query!r}, product {product!r}: a score must be a number, found NaN; "
                "the model or its precision is at fault"
            )
    return sorted(scores, key=lambda product: (-scores[product], product))[:depth]


def _measured(
    query_ids: Sequence[str],
    qrels: Mapping[str, Mapping[str, float]],
    relevant: Mapping[str, frozenset[str]],
    run: Mapping[str, Mapping[str, float]],
    cutoffs: Sequence[int],
) -> _Measured:
    rankings = [_ranking(query, run.get(query, {}), cutoffs[-1]) for query in query_ids]
    judged = [qrels[query] for query in query_ids]
    places = list(zip(judged, rankings, strict=True))
    return _Measured(
        per_query=_per_query(judged, [relevant[query] for query in query_ids], rankings, cutoffs),
        unanswered=tuple(query for query, ranking in zip(query_ids, rankings, strict=True) if not ranking),
        ranked={k: sum(len(ranking[:k]) for ranking in rankings) for k in cutoffs},
        unjudged={
            k: sum(one not in known for known, ranking in places for one in ranking[:k]) for k in cutoffs
        },
    )


def _unjudged_share(chunks: Sequence[_Measured], k: int) -> float:
    ranked = sum(chunk.ranked[k] for chunk in chunks)
    return sum(chunk.unjudged[k] for chunk in chunks) / ranked if ranked else 0.0


def _unknown(
    relevant: Mapping[str, frozenset[str]], known_products: Collection[str] | None
) -> tuple[str, ...] | None:
    if known_products is None:
        return None
    return tuple(sorted(frozenset().union(*relevant.values()) - frozenset(known_products)))


def _per_query(
    judged: Sequence[Mapping[str, float]],
    relevant: Sequence[frozenset[str]],
    rankings: Sequence[Sequence[str]],
    cutoffs: Sequence[int],
) -> dict[str, NDArray[np.float64]]:
    ranx = _ranx()
    ids = [{product: i for i, product in enumerate(products)} for products in judged]
    run = _run_array(ids, rankings)
    graded = _qrels_array(ids, [_scaled(products) for products in judged])
    binary = _qrels_array(ids, [dict.fromkeys(products, 1.0) for products in relevant])
    # ranx fails on a list with a single metric with a cutoff; lists here are longer
    ndcg = ranx.evaluate(graded, run, ["ndcg@1", *(f"ndcg@{k}" for k in cutoffs)], return_mean=False)
    others = [*(f"{name}@{k}" for name in ("recall", "mrr") for k in cutoffs), "precision@1"]
    found = ndcg | ranx.evaluate(binary, run, others, return_mean=False)
    names = metric_names(cutoffs)
    return {name: found[name] for name in names}


def _scaled(judged: Mapping[str, float]) -> dict[str, float]:
    # ranx drops gains below 1, and converts gains in its Qrels to int. A linear nDCG does not change
    # if all gains of a query are divided by the smallest.
    positive = {product: gain for product, gain in judged.items() if gain > 0}
    smallest = min(positive.values())
    return {product: gain / smallest for product, gain in positive.items()}


def _qrels_array(
    ids: Sequence[Mapping[str, int]], gains: Sequence[Mapping[str, float]]
) -> NDArray[np.float64]:
    """Return (queries, most products, 2): id and gain, best gain first, padded with id -1 and gain 0."""
    array = np.zeros((len(ids), max(map(len, gains)), 2))
    array[:, :, 0] = -1
    for row, (query_ids, query_gains) in enumerate(zip(ids, gains, strict=True)):
        best_first = sorted(query_gains.items(), key=lambda item: -item[1])
        array[row, : len(best_first)] = [(query_ids[product], gain) for product, gain in best_first]
    return array


def _run_array(ids: Sequence[Mapping[str, int]], rankings: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Return (queries, longest ranking, 2): id, -1 if not judged or padding; the score is unused."""
    # ranx reads the order of the rows, not the score; arrays instead of its Run avoid hashed ids and a
    # NumbaTypeSafetyWarning
    array = np.full((len(ids), max(1, *map(len, rankings)), 2), -1.0)
    for row, (query_ids, ranking) in enumerate(zip(ids, rankings, strict=True)):
        array[row, : len(ranking), 0] = [query_ids.get(product, -1) for product in ranking]
    return array


@functools.cache
def _ranx() -> Any:
    # ranx imports ir_datasets, which creates twenty folders in the home directory on import, and fails
    # if that is read-only; aisle never uses them.
    if "ir_datasets" in sys.modules or "IR_DATASETS_HOME" in os.environ:
        import ranx

        return ranx
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["IR_DATASETS_HOME"] = scratch
        try:
            import ranx
        finally:
            del os.environ["IR_DATASETS_HOME"]
    return ranx
