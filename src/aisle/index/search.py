"""An index opened for searching: refused unless it is whole and of the right encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.errors import FingerprintMismatchError, IndexIntegrityError, IndexStoreError, SearchError
from aisle.index.exact import FloatArray, Rows, Scores, exact_search
from aisle.index.hnsw import HnswGraph, RowGroups, approximate_search, load_graph
from aisle.index.manifest import (
    EMBEDDINGS_FILE,
    GRAPH_FILE,
    NODES_FILE,
    PRODUCTS_FILE,
    Manifest,
    read_manifest,
    verify_files,
)
from aisle.index.store import ID_COLUMN, rank_ids, read_array, read_products
from aisle.index.switch import current_directory

__all__ = ["SearchIndex", "SearchResult", "open_index"]

OPEN_ATTEMPTS = 10


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The best products of each query, best first; equal scores are in order of product id."""

    rows: Rows
    """(queries, top_k) rows of the index, for `SearchIndex.payload`."""
    product_ids: npt.NDArray[np.object_]
    """(queries, top_k) str."""
    scores: Scores
    """(queries, top_k) float32 cosine."""


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
        threads: int | None = None,
    ) -> SearchResult:
        """Return the `top_k` products per query, best first; ties break by product id.

        The graph only proposes products: their scores are computed from the stored embeddings, to the same
        bits whether the search is exact or not and however many queries and threads take part.

        Args:
            query_embeddings: (queries, dim) float32, unit L2 norm.
            top_k: products per query, 1 <= top_k <= len(self).
            ef_search: candidates kept while searching; None is the index's own setting.
            exact: compare with every product instead of following the graph.
            threads: threads that follow the graph; None is one per core.

        Raises:
            SearchError: an argument is out of range, or the embeddings are not finite, not of unit norm or
                not of the index's dim.
        """
        asked = _check_queries(query_embeddings, dim=self.dim)
        _check_range("top_k", top_k, upper=len(self))
        _check_range("ef_search", ef_search)
        _check_range("threads", threads)
        if exact:
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
        ids = np.empty(rows.size, dtype=object)
        ids[:] = self.products.column(ID_COLUMN).take(pa.array(rows.ravel())).to_pylist()
        return SearchResult(rows=rows, product_ids=ids.reshape(rows.shape), scores=scores)

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
        table = self.products.drop_columns([ID_COLUMN])
        if not table.num_columns:
            return [{} for _ in rows]
        found: list[dict[str, Any]] = table.take(pa.array(rows)).to_pylist()
        return found


def open_index(
    index_dir: Path,
    *,
    fingerprint: str | None = None,
    verify: Literal["checksums", "sizes"] = "checksums",
) -> SearchIndex:
    """Return the index, after checking that it is whole and made by the right encoder.

    An index that is replaced meanwhile is opened again, so that what is returned is one index, old or new; it
    stays usable when it is replaced later.

    Args:
        index_dir: directory of the index.
        fingerprint: of the encoder that will embed the queries; None leaves it unchecked.
        verify: "checksums" reads every file once; "sizes" is for files checked before, and does not notice a
            byte that has changed, which hnswlib may crash on.

    Raises:
        IndexIntegrityError: directory, manifest or a file is missing, truncated, altered or of another
            format.
        FingerprintMismatchError: another encoder made the index.
        IndexStoreError: a file cannot be read, or the index keeps being replaced.
    """
    resolved = Path(index_dir).resolve()
    for _ in range(OPEN_ATTEMPTS):
        directory = current_directory(resolved)
        before = _identity(directory)
        try:
            index = _open_directory(directory, fingerprint=fingerprint, verify=verify)
        except (IndexStoreError, OSError) as error:
            if _identity(current_directory(resolved)) != before:
                continue
            if isinstance(error, IndexStoreError):
                raise
            raise IndexStoreError(
                f"{index_dir}: could not be read: {error}; check its permissions"
            ) from error
        # By name: the files may be of two indexes if the name has changed hands between opening them.
        if before == _identity(directory):
            return index
    raise IndexStoreError(f"{index_dir}: replaced {OPEN_ATTEMPTS} times while it was opened; try again later")


def _open_directory(
    index_dir: Path, *, fingerprint: str | None, verify: Literal["checksums", "sizes"]
) -> SearchIndex:
    """Return the index of a directory that stays as it is meanwhile."""
    if not index_dir.is_dir():
        raise IndexIntegrityError(
            f"{index_dir}: must be an index directory, found none; build the index first"
        )
    manifest = read_manifest(index_dir)
    _check_fingerprint(index_dir, manifest, fingerprint)
    verify_files(index_dir, manifest.files, verify=verify)
    embeddings = read_array(
        index_dir / EMBEDDINGS_FILE, shape=(manifest.count, manifest.dim), dtype=manifest.store_dtype
    )
    node_of_row = read_array(index_dir / NODES_FILE, shape=(manifest.count,), dtype="int64")
    products = read_products(index_dir / PRODUCTS_FILE, count=manifest.count)
    tie_ranks = rank_ids(products)
    try:
        graph = load_graph(index_dir / GRAPH_FILE, RowGroups.of(node_of_row, tie_ranks), dim=manifest.dim)
    except RuntimeError as error:
        raise IndexIntegrityError(
            f"{index_dir / GRAPH_FILE}: hnswlib refuses it: {error}; build the index again"
        ) from None
    nodes = (manifest.graph_nodes, graph.index.get_current_count(), len(graph.groups))
    if len(set(nodes)) != 1:
        raise IndexIntegrityError(
            f"{index_dir}: the manifest says {nodes[0]} graph nodes, {GRAPH_FILE} has {nodes[1]} and "
            f"{NODES_FILE} {nodes[2]}; build the index again"
        )
    return SearchIndex(
        manifest=manifest, embeddings=embeddings, graph=graph, products=products, tie_ranks=tie_ranks
    )


def _check_fingerprint(index_dir: Path, manifest: Manifest, fingerprint: str | None) -> None:
    """Raise unless the index was made by the encoder that will embed the queries."""
    if fingerprint is not None and fingerprint != manifest.fingerprint:
        raise FingerprintMismatchError(
            f"{index_dir}: an index answers only the encoder that made it: made by {manifest.fingerprint} "
            f"({manifest.encoder}), queried with {fingerprint}; build the index again with the new encoder, "
            "or query with the old one"
        )


def _check_queries(query_embeddings: npt.NDArray[np.float32], *, dim: int) -> npt.NDArray[np.float32]:
    """Return the queries as contiguous float32; raise unless they are (queries, dim) finite unit vectors."""
    asked = np.asarray(query_embeddings)
    # hnswlib reads past the end of a query that is too short.
    if asked.ndim != 2 or asked.shape[1] != dim or asked.dtype.kind != "f":
        raise SearchError(
            f"query_embeddings: must be (queries, {dim}) float32, found {asked.shape} {asked.dtype}; "
            "use the encoder of the index"
        )
    norms = np.linalg.norm(asked.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(norms - 1.0) <= 1e-3))  # also catches NaN and infinity
    if len(wrong):
        raise SearchError(
            f"query_embeddings: must be finite and of norm 1, found norm {norms[wrong[0]]:.6g} in query "
            f"{wrong[0]}; normalise embeddings and check the encoder's weights"
        )
    return np.ascontiguousarray(asked, dtype=np.float32)


def _check_range(name: str, value: int | None, *, upper: int | None = None) -> None:
    """Raise unless the value is None or a whole number from 1 to `upper`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise SearchError(f"{name}: must be a whole number, found {value!r}")
    if value < 1 or (upper is not None and value > upper):
        limit = f"from 1 to {upper}, the products in the index" if upper is not None else "at least 1"
        raise SearchError(f"{name}: must be {limit}, found {value}")


def _identity(directory: Path) -> tuple[int, int] | None:
    """Return what tells a directory from another of the same name."""
    try:
        found = directory.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
