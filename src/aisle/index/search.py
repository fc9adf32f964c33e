"""An open index: answers queries by the graph or exactly, and gives payloads back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.errors import SearchError
from aisle.index.exact import FloatArray, Rows, Scores, exact_search
from aisle.index.filtered import filtered_search
from aisle.index.filters import parse_filter
from aisle.index.hnsw import HnswGraph, approximate_search
from aisle.index.lexical import Bm25Index
from aisle.index.manifest import (
    Manifest,
)
from aisle.index.products import ID_COLUMN, TEXT_COLUMN, take_rows

__all__ = ["SearchIndex", "SearchResult"]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The best products of each query, best first; equal scores are in order of product id."""

    rows: Rows
    """(queries, top_k) rows of the index, for `SearchIndex.payload`; -1 after the last of a short answer."""
    product_ids: npt.NDArray[np.object_]
    """(queries, top_k) str; None where the row is -1."""
    scores: Scores
    """(queries, top_k) float32: cosine, BM25 or fused score; -inf where the row is -1."""


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """An open index; several threads may search it."""

    manifest: Manifest
    embeddings: FloatArray
    """(count, dim) float32 or float16, unit L2 norm, memory-mapped."""
    graph: HnswGraph
    products: pa.Table
    """(count) rows of product_id and payload columns, memory-mapped."""
    tie_ranks: Rows
    """(count,) place of each product's id among the sorted ids."""
    directory: Path
    """Folder of the version's files."""
    lexical: Bm25Index | None
    """BM25 over the products' texts, memory-mapped; None where the index was built without texts."""

    def __len__(self) -> int:
        return self.manifest.count

    @property
    def dim(self) -> int:
        """Return the number of components of an embedding."""
        return self.manifest.dim

    def search(
        self,
        query_embeddings: npt.NDArray[np.float32],
        *,
        top_k: int,
        ef_search: int | None = None,
        exact: bool = False,
        where: str | None = None,
        threads: int | None = None,
    ) -> SearchResult:
        """Return the `top_k` products per query, best first; ties break by product id.

        A score depends on the query and the product alone, to the bit, however many queries and threads take
        part. With `exact` or `where` it is summed in float64 and rounded, through the graph in float32: the
        two are within 1e-6.

        Args:
            query_embeddings: (queries, dim) float32, unit L2 norm.
            top_k: products per query, 1 <= top_k <= len(self); with `where`, all that satisfy it if they are
                fewer.
            ef_search: candidates kept while searching; None is the index's own setting.
            exact: compare with every product instead of following the graph.
            where: condition on the products, such as "price <= 50"; `parse_filter` has the grammar.
            threads: threads that follow the graph; None is one per core.

        Raises:
            SearchError: an argument is out of range, the embeddings are not finite, not of unit norm or not
                of the index's dim, or `where` does not fit the products.
        """
        asked = _check_queries(query_embeddings, dim=self.dim)
        _check_range("top_k", top_k, upper=len(self) if where is None else None)
        _check_range("ef_search", ef_search)
        _check_range("threads", threads)
        if where is not None:
            rows, scores = filtered_search(
                self.graph,
                self.embeddings,
                asked,
                satisfying=self.satisfying(where),
                top_k=top_k,
                tie_ranks=self.tie_ranks,
                ef_search=self.manifest.ef_search if ef_search is None else ef_search,
                exact=exact,
                threads=threads,
            )
        elif exact:
            rows, scores = exact_search(self.embeddings, asked, top_k=top_k, tie_ranks=self.tie_ranks)
        else:
            rows, scores = approximate_search(
                self.graph,
                self.embeddings,
                asked,
                top_k=top_k,
                tie_ranks=self.tie_ranks,
                ef_search=self.manifest.ef_search if ef_search is None else ef_search,
                threads=threads,
            )
        return self.result(rows, scores)

    def result(self, rows: Rows, scores: Scores) -> SearchResult:
        """Return (queries, top_k) rows, -1 where an answer is short, and scores with their product ids."""
        flat = rows.ravel()
        ids = self.products.column(ID_COLUMN).take(pa.array(flat, mask=flat < 0)).to_numpy()
        return SearchResult(rows=rows, product_ids=ids.reshape(rows.shape), scores=scores)

    def satisfying(self, where: str) -> npt.NDArray[np.bool_]:
        """Return the (count,) mask of the products that satisfy a condition; `parse_filter` has the grammar.

        Raises:
            SearchError: the condition does not fit the products.
        """
        return parse_filter(where, self.products.schema).mask(self.products)

    def payload(self, rows: Rows) -> list[dict[str, Any]]:
        """Return the payload of each of (n,) rows, without the product id.

        Raises:
            SearchError: a row is not of the index.
        """
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise SearchError(
                f"rows: must be (n,) integers, found {rows.shape} {rows.dtype}; pass one query's rows"
            )
        outside = rows[(rows < 0) | (rows >= len(self))]
        if len(outside):
            raise SearchError(f"rows: the index has rows 0 to {len(self) - 1}, found {int(outside[0])}")
        names = [name for name in self.products.column_names if name not in (ID_COLUMN, TEXT_COLUMN)]
        if not names:
            return [{} for _ in rows]
        found: list[dict[str, Any]] = take_rows(self.products.select(names), rows).to_pylist()
        return found


def _check_queries(query_embeddings: npt.NDArray[np.float32], *, dim: int) -> npt.NDArray[np.float32]:
    """Return the queries as contiguous float32; raise unless they are (queries, dim) finite unit vectors."""
    asked = np.asarray(query_embeddings)
    # hnswlib reads past the end of a query that is too short.
    if asked.ndim != 2 or asked.shape[1] != dim or asked.dtype.kind != "f":
        raise SearchError(
            f"query_embeddings: must be (queries, {dim}) float32, found {asked.shape} {asked.dtype}; "
            "use the encoder of the index"
        )
    asked = np.ascontiguousarray(asked, dtype=np.float32)
    norms = np.sqrt(np.einsum("qd,qd->q", asked, asked))
    wrong = np.flatnonzero(~(np.abs(norms - 1.0) <= 1e-3))  # also catches NaN and infinity
    if len(wrong):
        raise SearchError(
            f"query_embeddings: must be finite and of norm 1, found norm {norms[wrong[0]]:.6g} in query "
            f"{wrong[0]}; normalise embeddings and check the encoder's weights"
        )
    return asked


def _check_range(name: str, value: int | None, *, upper: int | None = None) -> None:
    """Raise unless the value is None or a whole number from 1 to `upper`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise SearchError(f"{name}: must be a whole number, found {value!r}")
    if value < 1 or (upper is not None and value > upper):
        limit = f"from 1 to {upper}, the products in the index" if upper is not None else "at least 1"
        raise SearchError(f"{name}: must be {limit}, found {value}")
