"""Analyse the queries of an evaluation: largest changes, gain by group of queries, heat maps of scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aisle.evaluation.changes import (
    changed_queries,
    query_length_groups,
    ranks_of,
    slices,
    word_frequency_groups,
)
from aisle.evaluation.document import Heatmap, QueryChange, Slice
from aisle.evaluation.retrieval_metrics import RetrievalMetrics
from aisle.index.products import text_of
from aisle.index.scoring import FloatArray, row_scores
from aisle.reporting.product_labels import ProductLabels
from aisle.types.columns import TEXT_COLUMN
from aisle.types.encoder_protocol import Encoder

MOST_LABELS = 12
"""Largest number of groups of a column; its rarer values form a group together."""
HEATMAP_QUERIES = 6

Qrels = Mapping[str, Mapping[str, float]]
Runs = Mapping[str, Mapping[str, Mapping[str, float]]]


def changes_of(
    base: RetrievalMetrics,
    tuned: RetrievalMetrics,
    *,
    metric: str,
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    queries: Mapping[str, str],
    qrels: Qrels,
    labels: ProductLabels,
) -> tuple[tuple[QueryChange, ...], tuple[QueryChange, ...]]:
    """Return the queries that improved and worsened most, with the answers of both systems."""
    known: dict[str, Any] = {"metric": metric, "queries": queries, "qrels": qrels}
    found = changed_queries(base, tuned, before={}, after={}, titles={}, **known)
    chosen = [change.query_id for part in found for change in part]
    rankings = [
        {query_id: list(run[query_id].items()) for query_id in chosen if query_id in run}
        for run in (before, after)
    ]
    depth = ranks_of(metric)
    named = (
        product for ranking in rankings for answers in ranking.values() for product, _ in answers[:depth]
    )
    titles = labels.titles(named)
    return changed_queries(base, tuned, before=rankings[0], after=rankings[1], titles=titles, **known)


def slices_of(
    base: RetrievalMetrics,
    tuned: RetrievalMetrics,
    *,
    metric: str,
    queries: Mapping[str, str],
    qrels: Qrels,
    labels: ProductLabels,
    resamples: int,
    seed: int,
) -> tuple[Slice, ...]:
    """Return the gain by query length, by word frequency and by columns of the catalogue.

    A column is left out if the relevant products of all queries have the same value, or almost none.
    """
    measured = {query_id: queries[query_id] for query_id in base.query_ids if query_id in queries}
    groups = {"query length": query_length_groups(measured)}
    if TEXT_COLUMN in labels.index.products.column_names:
        texts = text_of(labels.index.products)
        groups["word frequency"] = word_frequency_groups(measured, texts)
    columns = {column: _groups_by(column, measured, qrels, labels) for column in labels.slices}
    # A column with a single value makes no groups.
    groups |= {column: values for column, values in columns.items() if len(set(values.values())) > 1}
    return slices(base, tuned, metric=metric, groups=groups, resamples=resamples, seed=seed)


def _groups_by(column: str, queries: Iterable[str], qrels: Qrels, labels: ProductLabels) -> dict[str, str]:
    """Return {query id: value of a column with most of its relevance}; rare values become "others"."""
    queries = list(queries)
    judged = {product for query_id in queries for product, grade in qrels[query_id].items() if grade > 0}
    values = labels.values(column, sorted(judged))
    label_of = {}
    for query_id in queries:
        weights: Counter[str] = Counter()
        for product, grade in qrels[query_id].items():
            if grade > 0 and product in values:
                weights[values[product]] += grade  # type: ignore[assignment]
        if weights:
            label_of[query_id] = min(weights, key=lambda value: (-weights[value], value))
    counts = Counter(label_of.values())
    frequent = sorted(counts, key=lambda label: (-counts[label], label))
    if len(frequent) > MOST_LABELS:
        others = f"{len(frequent) - MOST_LABELS + 1} others"
        kept = frequent[: MOST_LABELS - 1]
        label_of = {query_id: label if label in kept else others for query_id, label in label_of.items()}
        frequent = [*kept, others]
    place = {label: number for number, label in enumerate(frequent)}
    return dict(sorted(label_of.items(), key=lambda item: place[item[1]]))


def heatmaps_of(
    systems: Mapping[str, tuple[Encoder, FloatArray]],
    *,
    query_ids: Sequence[str],
    queries: Mapping[str, str],
    qrels: Qrels,
    labels: ProductLabels,
) -> tuple[Heatmap, ...]:
    """Return each system's cosines of a few queries and their judged products.

    The queries are taken at even distances, not by their results. Each query adds its most relevant product,
    and its least relevant product if that has a lower relevance.

    Args:
        systems: System -> encoder, and its (count, dim) embeddings of the products.
        query_ids: Ids of queries with a relevant product.
        queries: Query id -> text.
        qrels: Query id -> product id -> relevance.
        labels: Titles and groups of the products.
    """
    chosen, products = _chosen(query_ids, qrels, labels)
    if not chosen:
        return ()
    rows = np.broadcast_to(labels.rows_of(products), (len(chosen), len(products)))
    titles = labels.titles(products)
    return tuple(
        Heatmap(
            system=name,
            queries=tuple(queries[query_id] for query_id in chosen),
            products=tuple(titles[product] for product in products),
            scores=_nested(
                row_scores(
                    embeddings, rows, encoder.encode_queries([queries[query_id] for query_id in chosen])
                )
            ),
            relevance=tuple(
                tuple(qrels[query_id].get(product) for product in products) for query_id in chosen
            ),
        )
        for name, (encoder, embeddings) in systems.items()
    )


def _chosen(query_ids: Sequence[str], qrels: Qrels, labels: ProductLabels) -> tuple[list[str], list[str]]:
    """Return queries and products of the heat maps; products outside the index are skipped."""
    ordered = sorted(query_ids)
    every = max(1, len(ordered) // HEATMAP_QUERIES)
    judged = list({product: None for query_id in ordered[::every] for product in qrels[query_id]})
    present = {product for product, row in zip(judged, labels.rows_of(judged), strict=True) if row >= 0}
    chosen, products = [], dict[str, None]()
    for query_id in ordered[::every]:
        known = [product for product in qrels[query_id] if product in present]
        if not known:
            continue
        grades = {product: (-qrels[query_id][product], product) for product in known}
        best, worst = min(known, key=grades.__getitem__), max(known, key=grades.__getitem__)
        chosen.append(query_id)
        products[best] = None
        if grades[worst][0] > grades[best][0]:
            products[worst] = None
        if len(chosen) == HEATMAP_QUERIES:
            break
    return chosen, list(products)


def _nested(scores: npt.NDArray[np.float32]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in scores.tolist())
