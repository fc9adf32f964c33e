"""An open index: search it with the graph or exactly, and read payloads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.errors import SearchError
from aisle.index.analyser import Analyser
from aisle.index.backends import effort_problem, has_efforts
from aisle.index.dense_search import Graph, approximate_search
from aisle.index.filtered_search import Condition, filtered_search
from aisle.index.hybrid_search import search_hybrid, search_lexical
from aisle.index.lexical import Bm25Index
from aisle.index.manifest import (
    Manifest,
)
from aisle.index.query_adapter import QueryAdapter
from aisle.index.scoring import FloatArray, Rows, Scores, exact_search
from aisle.index.search_result import SearchResult, payload_of
from aisle.types.choices import Fusion, SearchMode
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN
from aisle.types.score_calibration import Calibration

__all__ = ["SearchIndex", "SearchResult"]


@dataclass(frozen=True, eq=False)
class SearchIndex:
    """An open index; several threads may search it."""

    manifest: Manifest
    embeddings: FloatArray
    """(count, dim) float32 or float16, unit L2 norm, memory-mapped."""
    graph: Graph
    products: pa.Table
    """Product ids and payload columns, `count` rows, memory-mapped."""
    tie_ranks: Rows
    """Rank of each product's id among the sorted ids, (count,)."""
    directory: Path
    """Folder of the version's files."""
    lexical: Bm25Index | None
    """BM25 over the products' texts, memory-mapped; None if the index was built without texts."""
    calibration: Calibration | None = None
    """Probability of relevance by score; None before `aisle calibrate`."""
    query_adapter: QueryAdapter | None = None
    """Trained function of query embeddings, see `adapted`; None before `aisle adapt`."""

    def __len__(self) -> int:
        return self.manifest.count

    @property
    def analyser(self) -> Analyser | None:
        """Analyser that splits texts and queries into words; None if the index was built without texts."""
        return None if self.lexical is None else self.lexical.analyser

    @property
    def dim(self) -> int:
        """Return the number of components of an embedding."""
        return self.manifest.dim

    @property
    def has_graph(self) -> bool:
        """Return whether the backend searches a stored structure; without it every search is exact."""
        return bool(self.graph.backend.files)

    @property
    def ef_search(self) -> int | None:
        """Return the search effort of the index; None if its backend has no search effort."""
        return self.manifest.ef_search if has_efforts(type(self.graph.backend)) else None

    def adapted(self, query_embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the embeddings to search with for the encoder's embeddings of queries.

        They differ if the index has a query adapter. `Searcher` calls this; a program that encodes queries
        itself calls it before `search`.

        Args:
            query_embeddings: (queries, dim) float32 of the index's encoder, unit L2 norm.
        """
        return query_embeddings if self.query_adapter is None else self.query_adapter.apply(query_embeddings)

    def search(
        self,
        query_embeddings: npt.NDArray[np.float32] | None = None,
        *,
        top_k: int,
        queries: Iterable[str] | None = None,
        mode: SearchMode = "dense",
        fusion: Fusion = "convex",
        weight: float | None = None,
        ef_search: int | None = None,
        exact: bool = False,
        where: Condition | None = None,
        threads: int | None = None,
    ) -> SearchResult:
        """Return the `top_k` products per query, best first; ties break by product id.

        If `top_k` exceeds the number of products, an answer has all products. If a search finds fewer
        products (a search by words finds only products with a word of the query), the answer ends in row -1
        and score -inf.

        A score depends only on the query and the product, to the bit, for any number of queries and threads.
        With `exact` or `where` it is summed in float64 and rounded, through the graph in float32: the two
        differ by at most 1e-6.

        Args:
            query_embeddings: (queries, dim) float32, unit L2 norm; "lexical" needs none.
            top_k: Products per query, at least 1.
            queries: Texts of the same queries; "dense" needs none.
            mode: Search by embeddings ("dense"), by words ("lexical", BM25), or by both ("hybrid").
            fusion: How "hybrid" joins the two: "convex" for weighted scores, "rrf" for reciprocal ranks.
            weight: Weight of the embeddings in "hybrid", in [0, 1]; None is the index's tuned weight.
            ef_search: Candidates kept while searching; None is the index's setting. Exact backends have none.
            exact: Whether to compare with every product instead of searching the graph.
            where: Condition on the products, such as "price <= 50"; `parse_filter` has the grammar. Or the
                mask that `satisfying` returned for it, for several searches with the same condition.
            threads: Threads that search the graph; None is one per core.

        Raises:
            SearchError: An argument is out of range or missing, the embeddings are not finite, not of unit
                norm or not of the index's dim, `where` does not fit the products, or the index was built
                without the texts that searching by words needs.
        """
        if mode != "dense":
            return self._by_words(
                query_embeddings,
                queries,
                mode=mode,
                top_k=top_k,
                fusion=fusion,
                weight=weight,
                ef_search=ef_search,
                exact=exact,
                where=where,
                threads=threads,
            )
        if query_embeddings is None:
            raise SearchError("query_embeddings: mode 'dense' needs them; give encoder.encode_queries(texts)")
        asked = _check_queries(query_embeddings, dim=self.dim)
        check_count("top_k", top_k)
        check_count("ef_search", ef_search)
        problem = effort_problem(type(self.graph.backend), ef_search)
        if problem is not None:
            raise SearchError(problem)
        check_count("threads", threads)
        top_k = min(top_k, len(self))
        if where is not None:
            rows, scores = filtered_search(
                self.graph,
                self.embeddings,
                asked,
                satisfying=self.satisfying(where),
                top_k=top_k,
                tie_ranks=self.tie_ranks,
                effort=self.manifest.ef_search if ef_search is None else ef_search,
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
                effort=self.manifest.ef_search if ef_search is None else ef_search,
                threads=threads,
            )
        return self.result(rows, scores)

    def _by_words(
        self,
        query_embeddings: npt.NDArray[np.float32] | None,
        queries: Iterable[str] | None,
        *,
        mode: SearchMode,
        top_k: int,
        fusion: Fusion,
        weight: float | None,
        ef_search: int | None,
        exact: bool,
        where: Condition | None,
        threads: int | None,
    ) -> SearchResult:
        """Return the answers of a lexical or hybrid search."""
        if mode not in get_args(SearchMode):
            raise SearchError(f"mode: must be one of {', '.join(get_args(SearchMode))}, found {mode!r}")
        if queries is None:
            raise SearchError(f"queries: mode {mode!r} needs the list of the queries' texts, found None")
        if mode == "lexical":
            return search_lexical(self, queries, top_k=top_k, where=where)
        if query_embeddings is None:
            raise SearchError(
                "query_embeddings: mode 'hybrid' needs them; give encoder.encode_queries(texts)"
            )
        return search_hybrid(
            self,
            queries,
            query_embeddings,
            top_k=top_k,
            weight=weight,
            fusion=fusion,
            ef_search=ef_search,
            exact=exact,
            where=where,
            threads=threads,
        )

    def result(self, rows: Rows, scores: Scores) -> SearchResult:
        """Return the result for (queries, top_k) rows, -1 where an answer is short, and their scores."""
        flat = rows.ravel()
        ids = self.products.column(ID_COLUMN).take(pa.array(flat, mask=flat < 0)).to_numpy()
        return SearchResult(
            rows=rows,
            product_ids=ids.reshape(rows.shape),
            scores=scores,
            products=self.products,
            version=self.manifest.version,
        )

    def satisfying(
        self, where: Condition, *, between: Callable[[], None] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return the (count,) mask of the products that satisfy a condition.

        Args:
            where: Condition on the products; `parse_filter` has the grammar. A mask is returned as it is.
            between: Function called before every few thousand products; an error that it raises ends this.

        Raises:
            SearchError: The condition does not fit the products.
        """
        if isinstance(where, np.ndarray):
            if where.shape != (len(self),) or where.dtype != np.bool_:
                raise SearchError(
                    f"where: a mask must have the type bool and the shape ({len(self)},), found "
                    f"{where.dtype} and {where.shape}"
                )
            return where
        from aisle.index.filters import parse_filter  # takes 15 ms; most searches have no filter

        return parse_filter(where, self.products.schema).mask(self.products, between=between)

    @overload
    def payload(self, rows: int | np.integer[Any]) -> dict[str, Any]: ...
    @overload
    def payload(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> list[Any]: ...
    def payload(self, rows: Any) -> Any:
        """Return the columns of products, without the product ids.

        A value that Python cannot hold, such as a date after the year 9999, is None, and the log names its
        column.

        Args:
            rows: Rows of the index. A single row gives a dict; a list of rows, or a query's rows of a result,
                gives a list of dicts; a result's (queries, top_k) rows give a list of lists. The -1 at the
                end of a short answer is left out.

        Raises:
            SearchError: A row is not in the index.
        """
        return payload_of(self.products, rows)

    def __repr__(self) -> str:
        encoder = str(self.manifest.encoder.get("model", "not recorded"))
        columns = [name for name in self.products.column_names if name not in (ID_COLUMN, TEXT_COLUMN)]
        made = f"version {self.manifest.version} by {self.manifest.command}"
        modes = "dense" if self.lexical is None else "dense, lexical, hybrid"
        return (
            f"SearchIndex({len(self):,} products x {self.dim} dim, {made}, modes {modes},\n"
            f"  encoder {shorten(encoder, 60)}, fingerprint {self.manifest.fingerprint[:12]},\n"
            f"  payload {shorten(', '.join(columns) or 'none', 90)})"
        )


def _check_queries(query_embeddings: npt.NDArray[np.float32], *, dim: int) -> npt.NDArray[np.float32]:
    """Return the queries as contiguous float32; refuse all except (queries, dim) unit vectors."""
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


def check_count(name: str, value: int | None, *, lowest: int = 1) -> None:
    """Check that the value is None or a whole number from `lowest`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise SearchError(f"{name}: must be a whole number, found {value!r}")
    if value < lowest:
        raise SearchError(f"{name}: must be at least {lowest}, found {value}")


def shorten(text: str, width: int) -> str:
    """Return a text on a single line, cut off with an ellipsis if it is longer than `width`."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
