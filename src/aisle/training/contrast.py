"""Negatives of a batch's positives: the other texts of the batch, or the pairs' hard negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from aisle.data.adjacency import BatchExclusions, Csr, find_sorted
from aisle.data.batching import process_share
from aisle.data.negatives import KnownPositives
from aisle.losses.anchors import Anchors
from aisle.losses.positive_sets import PositiveSets
from aisle.losses.scored_lists import ScoredLists
from aisle.losses.triples import Triples
from aisle.training.tokenized import TokenizedPairs


@dataclass(frozen=True)
class Contrast:
    """The positives of a batch and the texts that they are contrasted with.

    Args:
        queries: (queries,) rows of the distinct queries in the batch's embeddings.
        products: (products,) rows of the distinct products, hard negatives included.
        anchors: This rank's positives, for a loss that takes anchors; they index the queries and products
            above.
        triples: This rank's triples, for a loss that takes triples; they index them too.
        positive_sets: This rank's queries with their positives, for a loss that takes them; likewise.
        scored_lists: This rank's queries with the products that a teacher scored; likewise.
        total: Number of anchors, triples, queries or lists over all ranks.
    """

    queries: torch.Tensor
    products: torch.Tensor
    anchors: Anchors | None = None
    triples: Triples | None = None
    positive_sets: PositiveSets | None = None
    scored_lists: ScoredLists | None = None
    total: int = 0


@dataclass(frozen=True)
class ContrastedTexts:
    """The positives of a batch and the texts that may be their negatives, by text number.

    Args:
        queries: (queries,) distinct queries of the batch.
        products: (products,) distinct products of the batch, hard negatives included.
        pairs: (anchors,) number of each positive among all training pairs.
        anchor_queries: (anchors,) index of each positive's query in `queries`.
        anchor_products: (anchors,) index of each positive's product in `products`.
        excluded: Columns to exclude from the negatives of each anchor.
        total: Number of anchors over all ranks.
    """

    queries: np.ndarray
    products: np.ndarray
    pairs: np.ndarray
    anchor_queries: np.ndarray
    anchor_products: np.ndarray
    excluded: BatchExclusions
    total: int


def contrasted_texts(
    pairs: TokenizedPairs,
    known: KnownPositives,
    rows: np.ndarray,
    *,
    process_index: int = 0,
    num_processes: int = 1,
) -> ContrastedTexts:
    """Return a rank's share of the positives among these pairs, with all texts of the batch.

    If rows are texts with their groups, the positives are all ordered pairs of different texts of a group.
    """
    queries, products = pairs.queries[rows], pairs.products[rows]
    query_columns, product_columns = texts_to_compare(pairs, rows)
    if pairs.texts_of_groups:
        first = np.unique(queries, return_index=True)[1]
        anchor_queries, anchor_products = _alike(pairs.product_keys[product_columns])
        anchor_rows = rows[first[anchor_queries]]
    else:
        positives = np.flatnonzero(pairs.positive(rows))
        anchor_queries = np.searchsorted(query_columns, queries[positives])
        anchor_products = np.searchsorted(product_columns, products[positives])
        anchor_rows = rows[positives]
    total = len(anchor_rows)
    anchor_rows, anchor_queries, anchor_products = (
        process_share(one, process_index=process_index, num_processes=num_processes)
        for one in (anchor_rows, anchor_queries, anchor_products)
    )
    excluded = known.exclusions(
        anchor_queries=anchor_queries,
        anchor_products=anchor_products,
        query_keys=pairs.query_keys[query_columns],
        product_keys=pairs.product_keys[product_columns],
        anchor_subgroups=pairs.subgroups[anchor_rows] if len(pairs.subgroups) else None,
    )
    return ContrastedTexts(
        query_columns, product_columns, anchor_rows, anchor_queries, anchor_products, excluded, total
    )


def texts_to_compare(pairs: TokenizedPairs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct queries of pairs, and their distinct products and hard negatives, by number."""
    products = np.concatenate([pairs.products[rows], pairs.negatives_of(rows)])
    return np.unique(pairs.queries[rows]), np.unique(products)


def _alike(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of all ordered pairs of different columns with the same key."""
    groups, group_of = np.unique(keys, return_inverse=True)
    in_group = Csr.of(np.sort(group_of), np.argsort(group_of, kind="stable"), count=len(groups))
    pairs = in_group.take(group_of)
    different = pairs.rows != pairs.columns
    return pairs.rows[different], pairs.columns[different]


def positives_by_query(texts: ContrastedTexts, queries: np.ndarray) -> tuple[Csr, Csr]:
    """Return the columns of each query's positives, and the columns to exclude from its negatives.

    Args:
        texts: Positives of a batch.
        queries: Sorted, distinct columns of queries that have a positive.
    """
    count = max(len(texts.products), 1)
    own = texts.anchor_queries * count + texts.anchor_products
    excluded = texts.excluded.products
    left_out = texts.anchor_queries[excluded.rows] * count + excluded.columns

    def rows_of(codes: np.ndarray) -> Csr:
        query, column = np.divmod(np.unique(codes), count)
        row, known = find_sorted(queries, query)
        return Csr.of(row[known], column[known], count=len(queries))

    return rows_of(own), rows_of(left_out)


def hard_negatives_of(pairs: TokenizedPairs, texts: ContrastedTexts) -> tuple[np.ndarray, np.ndarray]:
    """Return the triples of the anchors: index of the anchor, and index of its hard negative.

    A hard negative that a pair lists twice counts once; excluded products are left out. Triples are in the
    order of the anchors.

    Args:
        pairs: Tokenised pairs.
        texts: Anchors, and the texts of their batch.
    """
    counts = pairs.negative_offsets[texts.pairs + 1] - pairs.negative_offsets[texts.pairs]
    anchors = np.repeat(np.arange(len(texts.pairs)), counts)
    negatives = np.searchsorted(texts.products, pairs.negatives_of(texts.pairs))
    columns, excluded = len(texts.products), texts.excluded.products
    listed = np.unique(anchors * columns + negatives)
    kept = np.setdiff1d(listed, excluded.rows * columns + excluded.columns, assume_unique=True)
    return np.divmod(kept, max(columns, 1))
