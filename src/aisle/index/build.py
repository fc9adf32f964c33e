"""Build an index beside the old one, measure it, and switch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.errors import ConfigError
from aisle.index.exact import FloatArray, Rows, ann_recall, exact_search
from aisle.index.hnsw import (
    HnswGraph,
    RowGroups,
    approximate_search,
    build_graph,
    number_nodes,
    save_graph,
)
from aisle.index.manifest import (
    EMBEDDINGS_FILE,
    GRAPH_FILE,
    INDEX_FILES,
    MANIFEST_FILE,
    NODES_FILE,
    PRODUCTS_FILE,
    Manifest,
    file_record,
    write_manifest,
)
from aisle.index.store import (
    make_products,
    rank_ids,
    read_array,
    write_embeddings,
    write_nodes,
    write_products,
    writing,
)
from aisle.index.switch import staged

__all__ = ["build_index"]

RECALL_QUERIES = 200


def build_index(
    index_dir: Path,
    *,
    product_ids: Sequence[str],
    payload: pa.Table,
    embeddings: Iterable[npt.NDArray[np.float32]],
    dim: int,
    fingerprint: str,
    encoder: Mapping[str, object],
    text_template: str | None,
    M: int = 16,
    ef_construction: int = 200,
    ef_search: int = 128,
    store_dtype: Literal["float32", "float16"] = "float32",
    overwrite: bool = False,
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Return the manifest of a new index at `index_dir`; until it is whole, what was there stays.

    Everything but `embeddings` is checked before the first of them is asked for.

    Args:
        index_dir: directory of the index; missing, empty, or an index to `overwrite`.
        product_ids: unique, not blank.
        payload: one row per product, to be given back with it; may have no columns.
        embeddings: chunks of (n, dim) float32, unit L2 norm, one per product in order; written as they come.
        dim: components of an embedding.
        fingerprint: of the encoder that makes the embeddings.
        encoder: what is needed to find that encoder again, as JSON.
        text_template: template that turned a catalogue row into text; None where the text was given.
        M: links per node, at least 2; higher is larger and closer to exact.
        ef_construction: candidates kept while building, at least `M`; higher is slower and closer to exact.
        ef_search: candidates kept while searching; higher is slower and closer to exact.
        store_dtype: type of the stored embeddings; "float16" halves them and rounds scores to about 3 digits.
        overwrite: replace an index that is there.
        threads: threads that build the graph; None is one per core, 1 gives the same file every time.
        on_progress: called with the number of products placed in the graph since the last call.

    Raises:
        ConfigError: a setting is out of range or `encoder` is not JSON.
        DataError: product ids, payload or the number of embeddings do not fit.
        ModelError: an embedding is of another dim, not finite or not of unit norm.
        IndexStoreError: `index_dir` may not be replaced, or a file cannot be written.
    """
    settings = _Settings(M=M, ef_construction=ef_construction, ef_search=ef_search, threads=threads)
    _check_settings(settings, dim=dim)
    encoder_json = _as_json(encoder)
    products = make_products(product_ids, payload)
    with staged(Path(index_dir).resolve(), overwrite=overwrite) as building:
        with writing(building / PRODUCTS_FILE):
            write_products(building / PRODUCTS_FILE, products)
        path = building / EMBEDDINGS_FILE
        write_embeddings(path, embeddings, product_ids=product_ids, dim=dim, store_dtype=store_dtype)
        stored = read_array(path, shape=(len(product_ids), dim), dtype=store_dtype)
        tie_ranks = rank_ids(products)
        graph = _write_graph(building, stored, tie_ranks, settings, on_progress)
        recall, queries = _measure(graph, stored, tie_ranks, settings)
        with writing(building / MANIFEST_FILE):
            manifest = Manifest(
                fingerprint=fingerprint,
                encoder=encoder_json,
                text_template=text_template,
                dim=dim,
                metric="cosine",
                M=M,
                ef_construction=ef_construction,
                ef_search=ef_search,
                count=len(product_ids),
                graph_nodes=len(graph.groups),
                store_dtype=store_dtype,
                files={name: file_record(building / name) for name in INDEX_FILES},
                ann_recall_at_10=recall,
                ann_recall_queries=queries,
            )
            write_manifest(building / MANIFEST_FILE, manifest)
    return manifest


@dataclass(frozen=True)
class _Settings:
    """How the graph is built and searched."""

    M: int
    ef_construction: int
    ef_search: int
    threads: int | None


def _write_graph(
    building: Path,
    stored: FloatArray,
    tie_ranks: Rows,
    settings: _Settings,
    on_progress: Callable[[int], None] | None,
) -> HnswGraph:
    """Write the graph over the stored embeddings and the node of each row; return the graph."""
    node_of_row = number_nodes(stored)
    with writing(building / NODES_FILE):
        write_nodes(building / NODES_FILE, node_of_row)
    graph = build_graph(
        stored,
        RowGroups.of(node_of_row, tie_ranks),
        M=settings.M,
        ef_construction=settings.ef_construction,
        threads=settings.threads,
        on_progress=on_progress,
    )
    with writing(building / GRAPH_FILE):
        save_graph(building / GRAPH_FILE, graph)
    return graph


def _measure(graph: HnswGraph, stored: FloatArray, tie_ranks: Rows, settings: _Settings) -> tuple[float, int]:
    """Return ann_recall@10 and its number of queries.

    The queries are stored embeddings, the same ones for the same count, and each may find itself. With fewer
    than ten products it is the recall of all of them.
    """
    count = len(stored)
    rows = np.random.default_rng(0).choice(count, size=min(RECALL_QUERIES, count), replace=False)
    queries = stored[np.sort(rows)].astype(np.float32)
    top_k = min(10, count)
    approximate_rows, approximate_scores = approximate_search(
        graph,
        stored,
        queries,
        top_k=top_k,
        tie_ranks=tie_ranks,
        ef_search=settings.ef_search,
        threads=settings.threads,
    )
    exact_rows, exact_scores = exact_search(stored, queries, top_k=top_k, tie_ranks=tie_ranks)
    recall = ann_recall(
        approximate_rows, exact_rows, approximate_scores=approximate_scores, exact_scores=exact_scores
    )
    return recall, len(queries)


def _check_settings(settings: _Settings, *, dim: int) -> None:
    """Raise unless every setting is in range, naming all that are not."""
    lowest = {
        "dim": (dim, 1),
        "M": (settings.M, 2),
        "ef_construction": (settings.ef_construction, settings.M),
        "ef_search": (settings.ef_search, 1),
        "threads": (1 if settings.threads is None else settings.threads, 1),
    }
    wrong = [
        f"{name} must be at least {low}, found {value}"
        for name, (value, low) in lowest.items()
        if value < low
    ]
    if wrong:
        raise ConfigError(f"index settings: {'; '.join(wrong)}")


def _as_json(encoder: Mapping[str, object]) -> dict[str, Any]:
    """Return the encoder's description as it will read back from the manifest."""
    try:
        described: dict[str, Any] = json.loads(json.dumps(dict(encoder), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"encoder: must be JSON to be kept in the manifest: {error}") from None
    return described
