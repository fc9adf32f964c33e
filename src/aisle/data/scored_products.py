"""Scores that a teacher gave to products for queries, found by the numbers of their texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.data.adjacency import Csr, Ints, find_sorted

__all__ = ["ScoredProducts"]


@dataclass(frozen=True)
class ScoredProducts:
    """Queries, each with the products that a teacher scored for it.

    Attributes:
        queries: (queries,) int64, sorted and distinct.
        products: A row of products for each query.
        scores: (entries,) float32, the score of each entry of `products`.
    """

    queries: Ints
    products: Csr
    scores: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def of(cls, queries: Ints, products: Ints, scores: npt.NDArray[np.float32]) -> ScoredProducts:
        """Return the scores of pairs, (pairs,) each; of equal pairs, the first pair's score counts."""
        order = np.lexsort((products, queries))
        queries, products, scores = queries[order], products[order], scores[order]
        new = np.ones(len(queries), dtype=bool)
        new[1:] = (queries[1:] != queries[:-1]) | (products[1:] != products[:-1])
        found, rows = np.unique(queries[new], return_inverse=True)
        return cls(found, Csr.of(rows, products[new], count=len(found)), scores[new])

    def take(self, rows: Ints) -> ScoredProducts:
        """Return the queries in the given rows."""
        entries = Csr(self.products.indptr, np.arange(len(self.scores))).take(rows)
        products = Csr(entries.indptr, self.products.columns[entries.columns])
        return ScoredProducts(self.queries[rows], products, self.scores[entries.columns])

    def among(self, queries: Ints, products: Ints) -> ScoredProducts:
        """Return the queries with at least two scored products, both by position in the given texts.

        Args:
            queries: (queries,) numbers of queries, sorted and distinct.
            products: (products,) numbers of products, sorted and distinct.
        """
        found = self._among(queries, products)
        return found.take(np.flatnonzero(np.diff(found.products.indptr) > 1))

    def counts_among(self, queries: Ints, products: Ints) -> Ints:
        """Return the number of scored products of each query, (queries,); see `among`."""
        found = self._among(queries, products)
        counts = np.zeros(len(queries), dtype=np.int64)
        counts[found.queries] = np.diff(found.products.indptr)
        return counts

    def _among(self, queries: Ints, products: Ints) -> ScoredProducts:
        at, known = find_sorted(self.queries, queries)
        near = self.take(at[known])
        places, there = find_sorted(products, near.products.columns)
        positions = Csr.of(near.products.rows[there], places[there], count=len(near))
        return ScoredProducts(np.flatnonzero(known), positions, near.scores[there])
