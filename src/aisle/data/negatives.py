"""Find texts of a batch to exclude from the negatives of its pairs: equal texts and known positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from aisle.data.adjacency import Adjacency, BatchExclusions, Csr, Ints, find_sorted
from aisle.data.batching import distinct
from aisle.data.subgroups import Subgroups

__all__ = ["Adjacency", "BatchExclusions", "Csr", "KnownPositives", "equality_keys"]


def equality_keys(texts: Sequence[str] | np.ndarray, ids: Sequence[str] | np.ndarray | None) -> Ints:
    """Return (entries,) int64 keys, equal for entries that share a text or an id, directly or through others.

    Keys are 0, 1, 2, ... in order of first appearance.

    Args:
        texts: (entries,) texts, or integers that are equal for equal texts.
        ids: (entries,) ids, or integers; None if there are none.

    Raises:
        ValueError: The numbers of ids and texts differ.
    """
    text_numbers = _first_appearance(texts)
    if ids is None:
        return text_numbers
    id_numbers = _first_appearance(ids)
    if len(id_numbers) != len(text_numbers):
        raise ValueError(f"{len(id_numbers)} ids for {len(text_numbers)} texts; give one for each")
    if not len(text_numbers):
        return text_numbers
    # Texts and ids are the two sides of a bipartite graph; each entry is an edge between its text and its id.
    first_id = int(text_numbers.max()) + 1
    nodes = first_id + int(id_numbers.max()) + 1
    edges = (np.ones(len(text_numbers)), (text_numbers, id_numbers + first_id))
    _, components = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)
    return _first_appearance(components[text_numbers])


def _first_appearance(values: Sequence[str] | np.ndarray) -> Ints:
    """Return the number of each value; distinct values are numbered in order of first appearance."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu":
        return distinct(values).rows
    _, first, member = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[member]


@dataclass(frozen=True)
class KnownPositives:
    """Positives of all training pairs, by key.

    Attributes:
        products_of: Query key to the keys of its positive products.
        queries_of: Product key to the keys of the queries for which it is a positive.
        subgroups: Subgroups of the pairs; None if the data has none.
    """

    products_of: Adjacency
    queries_of: Adjacency
    subgroups: Subgroups | None = None

    @classmethod
    def of(cls, query_keys: Ints, product_keys: Ints, positive: npt.NDArray[np.bool_]) -> KnownPositives:
        """Return the positives among pairs.

        Args:
            query_keys: (pairs,) keys of queries, see `equality_keys`.
            product_keys: (pairs,) keys of products.
            positive: (pairs,) mask: the product is a positive for the query.
        """
        queries, products = query_keys[positive], product_keys[positive]
        return cls(Adjacency.of(queries, products), Adjacency.of(products, queries))

    def exclusions(
        self,
        *,
        anchor_queries: Ints,
        anchor_products: Ints,
        query_keys: Ints,
        product_keys: Ints,
        anchor_subgroups: Ints | None = None,
    ) -> BatchExclusions:
        """Return the columns of a batch to exclude from the negatives of its anchors.

        Columns are the distinct texts of the batch; several can share a key. A key that no training pair has
        is equal to itself and has no known positives.

        Args:
            anchor_queries: (anchors,) column of each anchor's query.
            anchor_products: (anchors,) column of each anchor's product.
            query_keys: (queries,) key of each query column.
            product_keys: (products,) key of each product column.
            anchor_subgroups: (anchors,) subgroup of each anchor; only with `subgroups`.
        """
        excluded = BatchExclusions(
            products=_right_columns(
                anchor_products, product_keys, known=self.products_of, partners=query_keys[anchor_queries]
            ),
            queries=_right_columns(
                anchor_queries, query_keys, known=self.queries_of, partners=product_keys[anchor_products]
            ),
        )
        if self.subgroups is None or anchor_subgroups is None:
            return excluded
        return self.subgroups.add_to(
            excluded,
            subgroups=anchor_subgroups,
            anchor_queries=anchor_queries,
            anchor_products=anchor_products,
            query_keys=query_keys,
            product_keys=product_keys,
        )


def _right_columns(anchors: Ints, column_keys: Ints, *, known: Adjacency, partners: Ints) -> Csr:
    """Return for each anchor the columns equal to its own, and the known neighbours of its partner.

    Work is done once per distinct partner and copied to its anchors: a thousand anchors with one title have
    one list of a thousand queries, which is sorted once.

    Args:
        anchors: (anchors,) column of each anchor.
        column_keys: (columns,) key of each column.
        known: Partner key to the keys of its known positives.
        partners: (anchors,) key of the text on the other side of each anchor.
    """
    groups, group_of = np.unique(column_keys, return_inverse=True)
    if len(groups) == len(column_keys) and known.are_alone(partners, column_keys[anchors]):
        return Csr(np.arange(len(anchors) + 1), anchors)
    in_group = Csr.of(np.sort(group_of), np.argsort(group_of, kind="stable"), count=len(groups))
    partner_keys, partner = np.unique(partners, return_inverse=True)
    right = known.among(partner_keys, groups)
    own = group_of[anchors]
    # Usually an anchor is a known positive; otherwise its list needs its own group in addition.
    _, listed = find_sorted(right.rows * len(groups) + right.columns, partner * len(groups) + own)
    added = np.where(listed, 0, own + 1)
    codes, list_of = np.unique(partner * (len(groups) + 1) + added, return_inverse=True)
    list_partner, list_added = np.divmod(codes, len(groups) + 1)
    base = right.take(list_partner)
    extra = np.flatnonzero(list_added)
    rows = np.concatenate([base.rows, extra])
    columns = in_group.take(np.concatenate([base.columns, list_added[extra] - 1]))
    entries = np.sort(rows[columns.rows] * len(column_keys) + columns.columns)
    lists = Csr.of(*np.divmod(entries, max(len(column_keys), 1)), count=len(codes))
    return lists.take(list_of)
