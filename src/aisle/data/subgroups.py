"""Subgroups of pairs: texts of other subgroups are negatives; inside a subgroup, only judged pairs are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.data.adjacency import Adjacency, BatchExclusions, Csr, Ints

__all__ = ["Subgroups"]


@dataclass(frozen=True)
class Subgroups:
    """Texts of each subgroup of the training pairs, by key, and the pairs that are judged wrong.

    Texts of other subgroups are negatives. Inside a subgroup, only a pair that is judged wrong is a negative.

    Attributes:
        products: Subgroup to the keys of its products.
        queries: Subgroup to the keys of its queries.
        wrong_products: Query key to the keys of the products that are judged wrong for it.
        wrong_queries: Product key to the keys of the queries that it is judged wrong for.
    """

    products: Adjacency
    queries: Adjacency
    wrong_products: Adjacency
    wrong_queries: Adjacency

    @classmethod
    def of(
        cls, subgroups: Ints, query_keys: Ints, product_keys: Ints, wrong: npt.NDArray[np.bool_]
    ) -> Subgroups:
        """Return the subgroups of pairs, (pairs,) each; a hard negative makes a pair that is wrong.

        Args:
            subgroups: Subgroup of each pair.
            query_keys: Key of its query.
            product_keys: Key of its product.
            wrong: Whether the product is judged wrong for the query.
        """
        return cls(
            products=Adjacency.of(subgroups, product_keys),
            queries=Adjacency.of(subgroups, query_keys),
            wrong_products=Adjacency.of(query_keys[wrong], product_keys[wrong]),
            wrong_queries=Adjacency.of(product_keys[wrong], query_keys[wrong]),
        )

    def add_to(
        self,
        excluded: BatchExclusions,
        *,
        subgroups: Ints,
        anchor_queries: Ints,
        anchor_products: Ints,
        query_keys: Ints,
        product_keys: Ints,
    ) -> BatchExclusions:
        """Return exclusions to which the unjudged texts of each anchor's subgroup are added.

        Args:
            excluded: Columns that are excluded in any case.
            subgroups: (anchors,) subgroup of each anchor.
            anchor_queries: (anchors,) column of each anchor's query.
            anchor_products: (anchors,) column of each anchor's product.
            query_keys: (queries,) key of each query column.
            product_keys: (products,) key of each product column.
        """
        return BatchExclusions(
            products=_with_members(
                excluded.products,
                product_keys,
                members=(self.products, subgroups),
                wrong=(self.wrong_products, query_keys[anchor_queries]),
            ),
            queries=_with_members(
                excluded.queries,
                query_keys,
                members=(self.queries, subgroups),
                wrong=(self.wrong_queries, product_keys[anchor_products]),
            ),
        )


def _with_members(
    excluded: Csr, column_keys: Ints, *, members: tuple[Adjacency, Ints], wrong: tuple[Adjacency, Ints]
) -> Csr:
    """Return exclusions with the columns of each anchor's members added, except those judged wrong.

    Args:
        excluded: Row of columns for each anchor.
        column_keys: (columns,) key of each column.
        members: Keys to add by subgroup, and the (anchors,) subgroup of each anchor.
        wrong: Keys not to add by text of the other side, and the (anchors,) key of each anchor's.
    """
    groups, group_of = np.unique(column_keys, return_inverse=True)
    in_group = Csr.of(np.sort(group_of), np.argsort(group_of, kind="stable"), count=len(groups))
    listed, judged = (
        found.rows * len(groups) + found.columns
        for found in (known.among(keys, groups) for known, keys in (members, wrong))
    )
    rows, added = np.divmod(np.setdiff1d(listed, judged), max(len(groups), 1))
    columns = in_group.take(added)
    count = len(column_keys)
    entries = np.union1d(
        excluded.rows * count + excluded.columns, rows[columns.rows] * count + columns.columns
    )
    return Csr.of(*np.divmod(entries, max(count, 1)), count=len(excluded))
