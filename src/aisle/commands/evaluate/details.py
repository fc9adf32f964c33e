"""What a report shows beside the tables: titles, changed queries, parts of the queries, heat maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from aisle.errors import ConfigError
from aisle.evaluation.changes import (
    changed_queries,
    query_length_groups,
    ranks_of,
    slices,
    word_frequency_groups,
)
from aisle.evaluation.document import Heatmap, QueryChange, Slice
from aisle.evaluation.retrieval_metrics import RetrievalMetrics
from aisle.index import SearchIndex
from aisle.index.products import take_rows, text_of
from aisle.index.scoring import FloatArray, row_scores
from aisle.models.encoder import TorchEncoder
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

TITLE_COLUMNS = ("title", "product_title", "name")
SLICE_COLUMNS = ("department", "category", "brand")
MOST_LABELS = 12
"""Labels of a column that have a slice of their own."""
HEATMAP_QUERIES = 6

Qrels = Mapping[str, Mapping[str, float]]
Runs = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Shown:
    """The products of an index as a report names them.

    Args:
        index: the products.
        title: column with what a product is called; None where there are ids alone.
        slices: columns to look for the gain by.
    """

    index: SearchIndex
    title: str | None
    slices: tuple[str, ...]

    def rows_of(self, product_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the (n,) row of each id, -1 for one that the index does not have."""
        known = self.index.products.column(ID_COLUMN).combine_chunks()
        found = pa.compute.index_in(pa.array(list(product_ids), pa.string()), value_set=known)
        rows: npt.NDArray[np.int64] = found.fill_null(-1).to_numpy().astype(np.int64)
        return rows

    def values(self, column: str, product_ids: Sequence[str]) -> dict[str, str]:
        """Return {product id: value of a column} of those that have one."""
        rows = self.rows_of(product_ids)
        kept = [product for product, row in zip(product_ids, rows, strict=True) if row >= 0]
        values = take_rows(self.index.products.select([column]), rows[rows >= 0]).column(0).to_pylist()
        texts = [None if value is None else " ".join(str(value).split()) for value in values]
        return {product: text for product, text in zip(kept, texts, strict=True) if text}

    def titles(self, product_ids: Iterable[str]) -> dict[str, str]:
        """Return {product id: title}; the id itself where there is no title."""
        distinct = list(dict.fromkeys(product_ids))
        named = {} if self.title is None else self.values(self.title, distinct)
        return {product: named.get(product, product) for product in distinct}


def shown_products(
    index: SearchIndex, *, title_column: str | None, slice_columns: tuple[str, ...] | None
) -> Shown:
    """Return how a report names and groups the products of an index.

    Raises:
        ConfigError: a column that was named is not there.
    """
    columns = [name for name in index.products.column_names if name not in (ID_COLUMN, TEXT_COLUMN)]
    named = {"title_column": (title_column,) if title_column else (), "slice_column": slice_columns or ()}
    for flag, given in named.items():
        for column in given:
            if column not in columns:
                raise ConfigError(
                    f"--{flag} {column}: the index has no such column; it has {', '.join(columns) or 'none'}"
                )
    usual = next((name for name in TITLE_COLUMNS if name in columns), None)
    texts = TEXT_COLUMN if TEXT_COLUMN in index.products.column_names else None
    found = tuple(name for name in SLICE_COLUMNS if name in columns)
    return Shown(index, title_column or usual or texts, found if slice_columns is None else slice_columns)


def changes_of(
    base: RetrievalMetrics,
    tuned: RetrievalMetrics,
    *,
    metric: str,
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    queries: Mapping[str, str],
    qrels: Qrels,
    shown: Shown,
) -> tuple[tuple[QueryChange, ...], tuple[QueryChange, ...]]:
    """Return the queries that improved and that worsened most, with their answers of both systems."""
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
    titles = shown.titles(named)
    return changed_queries(base, tuned, before=rankings[0], after=rankings[1], titles=titles, **known)


def slices_of(
    base: RetrievalMetrics,
    tuned: RetrievalMetrics,
    *,
    metric: str,
    queries: Mapping[str, str],
    qrels: Qrels,
    shown: Shown,
    resamples: int,
    seed: int,
) -> tuple[Slice, ...]:
    """Return the gain by query length, by how frequent the words are, and by columns of the catalogue.

    A column in which the relevant products of all queries have one value, or hardly any, is left out.
    """
    measured = {query_id: queries[query_id] for query_id in base.query_ids if query_id in queries}
    groups = {"query length": query_length_groups(measured)}
    if TEXT_COLUMN in shown.index.products.column_names:
        texts = text_of(shown.index.products)
        groups["word frequency"] = word_frequency_groups(measured, texts)
    columns = {column: _groups_by(column, measured, qrels, shown) for column in shown.slices}
    # One label alone parts nothing: a column with it says no more than the table, or is all but empty.
    groups |= {column: labels for column, labels in columns.items() if len(set(labels.values())) > 1}
    return slices(base, tuned, metric=metric, groups=groups, resamples=resamples, seed=seed)


def _groups_by(column: str, queries: Iterable[str], qrels: Qrels, shown: Shown) -> dict[str, str]:
    """Return {query id: value of a column that most of its relevance has}; rare values are together."""
    queries = list(queries)
    judged = {product for query_id in queries for product, grade in qrels[query_id].items() if grade > 0}
    values = shown.values(column, sorted(judged))
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
    systems: Mapping[str, tuple[TorchEncoder, FloatArray]],
    *,
    query_ids: Sequence[str],
    queries: Mapping[str, str],
    qrels: Qrels,
    shown: Shown,
) -> tuple[Heatmap, ...]:
    """Return each system's cosines of a few queries with their judged products.

    The queries lie at even distances among all of them: they are not chosen by how they came out. Each
    brings its best product, and its worst if that is worth less.

    Args:
        systems: row -> encoder, and its (count, dim) embeddings of the products.
        query_ids: of queries with a relevant product.
        queries: query id -> text.
        qrels: query id -> product id -> relevance.
        shown: the products.
    """
    chosen, products = _chosen(query_ids, qrels, shown)
    if not chosen:
        return ()
    rows = np.broadcast_to(shown.rows_of(products), (len(chosen), len(products)))
    titles = shown.titles(products)
    return tuple(
        Heatmap(
            system=name,
            queries=tuple(queries[query_id] for query_id in chosen),
            products=tuple(titles[product] for product in products),
            scores=_nested(
                row_scores(embeddings, rows, encoder.encode_queries([queries[one] for one in chosen]))
            ),
            relevance=tuple(
                tuple(qrels[query_id].get(product) for product in products) for query_id in chosen
            ),
        )
        for name, (encoder, embeddings) in systems.items()
    )


def _chosen(query_ids: Sequence[str], qrels: Qrels, shown: Shown) -> tuple[list[str], list[str]]:
    """Return queries and products of the heat maps; products that the index does not have are passed over."""
    ordered = sorted(query_ids)
    every = max(1, len(ordered) // HEATMAP_QUERIES)
    judged = list({product: None for query_id in ordered[::every] for product in qrels[query_id]})
    present = {product for product, row in zip(judged, shown.rows_of(judged), strict=True) if row >= 0}
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
