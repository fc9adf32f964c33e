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
from aisle.index.filtered import filtered_search
from aisle.index.filters import parse_filter
from aisle.index.hnsw import HnswGraph, RowGroups, approximate_search, load_graph
from aisle.index.lexical import Bm25Index
from aisle.index.manifest import (
    EMBEDDINGS_FILE,
    GRAPH_FILE,
    LEXICAL_FOLDER,
    NODES_FILE,
    PRODUCTS_FILE,
    Manifest,
    read_manifest,
    verify_files,
)
from aisle.index.products import ID_COLUMN, TEXT_COLUMN, rank_ids, read_products, take_rows
from aisle.index.store import read_array
from aisle.index.versions import current_directory, version_directory

__all__ = ["SearchIndex", "SearchResult", "open_index"]

OPEN_ATTEMPTS = 10


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

        The graph only proposes products: their scores are computed from the stored embeddings, to the same
        bits whether the search is exact or not and however many queries and threads take part.

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
        ids = np.empty(rows.size, dtype=object)
        ids[:] = self.products.column(ID_COLUMN).take(pa.array(flat, mask=flat < 0)).to_pylist()
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


def open_index(
    index_dir: Path,
    *,
    fingerprint: str | None = None,
    verify: Literal["checksums", "sizes"] = "checksums",
    version: int | None = None,
) -> SearchIndex:
    """Return the index, after checking that it is whole and made by the right encoder.

    What is returned is one version, which stays usable when another becomes the current one, or when its
    files are removed.

    Args:
        index_dir: directory of the index.
        fingerprint: of the encoder that will embed the queries; None leaves it unchecked.
        verify: "checksums" reads every file once; "sizes" is for files checked before, and does not notice a
            byte that has changed, which hnswlib may crash on.
        version: number of the version; None is the current one.

    Raises:
        IndexIntegrityError: directory, manifest or a file is missing, truncated, altered or of another
            format.
        FingerprintMismatchError: another encoder made the index.
        IndexStoreError: a file cannot be read, or the index keeps being replaced.
    """
    resolved = Path(index_dir).resolve()
    for _ in range(OPEN_ATTEMPTS):
        manifest = _manifest(resolved, version)
        try:
            folder = current_directory(resolved, manifest)
            return _open_version(folder, manifest, fingerprint=fingerprint, verify=verify)
        except (IndexStoreError, OSError) as error:
            # The version may have been removed while it was opened: two newer ones are there by then.
            if version is None and _manifest(resolved, None).version != manifest.version:
                continue
            if isinstance(error, IndexStoreError):
                raise
            raise IndexStoreError(
                f"{index_dir}: could not be read: {error}; check its permissions"
            ) from error
    raise IndexStoreError(f"{index_dir}: replaced {OPEN_ATTEMPTS} times while it was opened; try again later")


def _manifest(index_dir: Path, version: int | None) -> Manifest:
    if not index_dir.is_dir():
        raise IndexIntegrityError(
            f"{index_dir}: must be an index directory, found none; build the index first"
        )
    try:
        return read_manifest(index_dir if version is None else version_directory(index_dir, version))
    except OSError as error:
        raise IndexStoreError(f"{index_dir}: could not be read: {error}; check its permissions") from error


def _open_version(
    folder: Path, manifest: Manifest, *, fingerprint: str | None, verify: Literal["checksums", "sizes"]
) -> SearchIndex:
    """Return the index of a version's folder."""
    _check_fingerprint(folder, manifest, fingerprint)
    verify_files(folder, manifest.files, verify=verify)
    embeddings = read_array(
        folder / EMBEDDINGS_FILE, shape=(manifest.count, manifest.dim), dtype=manifest.store_dtype
    )
    node_of_row = read_array(folder / NODES_FILE, shape=(manifest.count,), dtype="int64")
    products = read_products(folder / PRODUCTS_FILE, count=manifest.count)
    tie_ranks = rank_ids(products)
    labels = manifest.graph_nodes + manifest.deleted_nodes
    groups = RowGroups.of(node_of_row, tie_ranks, nodes=labels)
    try:
        graph = load_graph(folder / GRAPH_FILE, groups, dim=manifest.dim)
    except RuntimeError as error:
        raise IndexIntegrityError(
            f"{folder / GRAPH_FILE}: hnswlib refuses it: {error}; build the index again"
        ) from None
    found = (graph.index.get_current_count(), len(groups), groups.live)
    if found != (labels, labels, manifest.graph_nodes):
        raise IndexIntegrityError(
            f"{folder}: the manifest says {labels} graph nodes, {manifest.graph_nodes} of them in use; "
            f"{GRAPH_FILE} has {found[0]}, and {NODES_FILE} {found[1]} with {found[2]} in use; build the "
            "index again"
        )
    has_texts = any(name.startswith(f"{LEXICAL_FOLDER}/") for name in manifest.files)
    return SearchIndex(
        manifest=manifest,
        embeddings=embeddings,
        graph=graph,
        products=products,
        tie_ranks=tie_ranks,
        directory=folder,
        lexical=Bm25Index.load(folder / LEXICAL_FOLDER) if has_texts else None,
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
