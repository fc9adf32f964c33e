"""Which texts of a batch are no negatives of its pairs: equal ones, and those known to be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from aisle.data.batching import distinct

__all__ = ["Adjacency", "BatchExclusions", "Csr", "KnownPositives", "equality_keys"]

Ints = npt.NDArray[np.int64]


def equality_keys(texts: Sequence[str] | np.ndarray, ids: Sequence[str] | None) -> Ints:
    """Return (entries,) int64: equal for entries with the same text, the same id, or connected by others.

    Keys are 0, 1, 2, ... in order of first appearance.

    Args:
        texts: (entries,) the texts, or an integer for each that is equal for equal texts.
        ids: (entries,) the id of each; None where there are none.

    Raises:
        ValueError: there are not as many ids as texts.
    """
    text_numbers = _first_appearance(texts)
    if ids is None:
        return text_numbers
    id_numbers = _first_appearance(ids)
    if len(id_numbers) != len(text_numbers):
        raise ValueError(f"{len(id_numbers)} ids for {len(text_numbers)} texts; give one for each")
    if not len(text_numbers):
        return text_numbers
    # Texts and ids are the two sides of a graph, and each entry is an edge between its own.
    first_id = int(text_numbers.max()) + 1
    nodes = first_id + int(id_numbers.max()) + 1
    edges = (np.ones(len(text_numbers)), (text_numbers, id_numbers + first_id))
    _, components = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)
    return _first_appearance(components[text_numbers])


def _first_appearance(values: Sequence[str] | np.ndarray) -> Ints:
    """Return the number of each value, the distinct ones being numbered as they first appear."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu":
        return distinct(values).rows
    _, first, member = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[member]


@dataclass(frozen=True)
class Csr:
    """Rows of column numbers, one row after another (compressed sparse rows).

    Attributes:
        indptr: (rows + 1,) int64; row i is `columns[indptr[i] : indptr[i + 1]]`.
        columns: (entries,) int64, sorted within a row and without repeats.
    """

    indptr: Ints
    columns: Ints

    @classmethod
    def of(cls, rows: Ints, columns: Ints, *, count: int) -> Csr:
        """Return `count` rows out of entries, (entries,) each, that are sorted by row and column."""
        return cls(np.searchsorted(rows, np.arange(count + 1)).astype(np.int64), columns)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def rows(self) -> Ints:
        """The row of each entry, (entries,) int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def take(self, rows: Ints) -> Csr:
        """Return these rows, in this order and as often as they are named."""
        lengths = np.diff(self.indptr)[rows]
        indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        places = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], lengths)
        return Csr(indptr, self.columns[places])


@dataclass(frozen=True)
class Adjacency:
    """The neighbours of keys, by key.

    Attributes:
        keys: (keys,) int64, sorted, those that have neighbours.
        neighbours: (keys) rows of neighbouring keys.
    """

    keys: Ints
    neighbours: Csr

    @classmethod
    def of(cls, keys: Ints, neighbours: Ints) -> Adjacency:
        """Return the adjacency of edges, (edges,) each, in any order and with repeats."""
        order = np.lexsort((neighbours, keys))
        keys, neighbours = keys[order], neighbours[order]
        new = np.ones(len(keys), dtype=bool)
        new[1:] = (keys[1:] != keys[:-1]) | (neighbours[1:] != neighbours[:-1])
        found, rows = np.unique(keys[new], return_inverse=True)
        return cls(found, Csr.of(rows, neighbours[new], count=len(found)))

    def among(self, keys: Ints, targets: Ints) -> Csr:
        """Return for each of `keys` the places in `targets`, sorted and distinct, of its neighbours there."""
        at, known = _find(self.keys, keys)
        near = self.neighbours.take(at[known])
        places, there = _find(targets, near.columns)
        return Csr.of(np.flatnonzero(known)[near.rows[there]], places[there], count=len(keys))


@dataclass(frozen=True)
class BatchExclusions:
    """For each anchor of a batch, the texts that are no negatives of it.

    Attributes:
        products: (anchors) rows of product columns: the anchor's product, those equal to it, and the known
            positives of its query.
        queries: (anchors) rows of query columns: the anchor's query, those equal to it, and those of which
            its product is a known positive.
    """

    products: Csr
    queries: Csr


@dataclass(frozen=True)
class KnownPositives:
    """Which products are right for which queries in all training pairs, by key.

    Attributes:
        products_of: query key to the keys of its positive products.
        queries_of: product key to the keys of the queries it is right for.
    """

    products_of: Adjacency
    queries_of: Adjacency

    @classmethod
    def of(cls, query_keys: Ints, product_keys: Ints, positive: npt.NDArray[np.bool_]) -> KnownPositives:
        """Return the positives among pairs.

        Args:
            query_keys: (pairs,) equal for equal queries, see `equality_keys`.
            product_keys: (pairs,) likewise for products.
            positive: (pairs,) whether the product is right for the query.
        """
        queries, products = query_keys[positive], product_keys[positive]
        return cls(Adjacency.of(queries, products), Adjacency.of(products, queries))

    def exclusions(
        self, *, anchor_queries: Ints, anchor_products: Ints, query_keys: Ints, product_keys: Ints
    ) -> BatchExclusions:
        """Return the texts of a batch that are no negatives of its anchors.

        Columns are the distinct texts of the batch; several of them may share a key. A key that no training
        pair has is equal to itself and has no known positives.

        Args:
            anchor_queries: (anchors,) column of each anchor's query.
            anchor_products: (anchors,) column of each anchor's product.
            query_keys: (queries,) key of each query column.
            product_keys: (products,) key of each product column.
        """
        return BatchExclusions(
            products=_right_columns(
                anchor_products, product_keys, known=self.products_of, partners=query_keys[anchor_queries]
            ),
            queries=_right_columns(
                anchor_queries, query_keys, known=self.queries_of, partners=product_keys[anchor_products]
            ),
        )


def _right_columns(anchors: Ints, column_keys: Ints, *, known: Adjacency, partners: Ints) -> Csr:
    """Return for each anchor the columns equal to its own, and the known neighbours of its partner.

    Work is done once per distinct partner and copied to its anchors: a thousand anchors with one title have
    one list of a thousand queries, which is sorted once.

    Args:
        anchors: (anchors,) column of each anchor.
        column_keys: (columns,) key of each column.
        known: partner key to the keys that are right for it.
        partners: (anchors,) key of the text on the other side of each anchor.
    """
    groups, group_of = np.unique(column_keys, return_inverse=True)
    in_group = Csr.of(np.sort(group_of), np.argsort(group_of, kind="stable"), count=len(groups))
    partner_keys, partner = np.unique(partners, return_inverse=True)
    right = known.among(partner_keys, groups)
    own = group_of[anchors]
    # An anchor is a known positive as a rule; one that is none needs a list with its own group added.
    _, listed = _find(right.rows * len(groups) + right.columns, partner * len(groups) + own)
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


def _find(values: Ints, wanted: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Return where each wanted number stands among sorted distinct ones, and whether it is there at all."""
    places = np.searchsorted(values, wanted)
    found = places < len(values)
    found[found] = values[places[found]] == wanted[found]
    return places, found
