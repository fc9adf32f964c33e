"""Build a version of an index: store products and embeddings, build the graph, measure its recall."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.index.analyser import Analyser
from aisle.index.array_files import read_array, read_marks, write_array, write_embeddings, writing
from aisle.index.backends import DEFAULT_BACKEND, backend_named, make_parameters
from aisle.index.build_settings import GraphSettings, IndexIdentity
from aisle.index.dense_search import Graph, build_graph
from aisle.index.languages import Language
from aisle.index.layout import StrPath
from aisle.index.lexical import write_lexical
from aisle.index.manifest import (
    EMBEDDINGS_FILE,
    NODES_FILE,
    PRODUCTS_FILE,
    QUERIES_FILE,
    BackendRecord,
    Manifest,
)
from aisle.index.products import make_products, rank_ids, read_products, write_products
from aisle.index.row_groups import RowGroups, number_nodes
from aisle.index.scoring import FloatArray, Rows, Scores
from aisle.index.tuning import Tuning, held_out_queries, tune
from aisle.index.writer import Writer, index_writer
from aisle.types.choices import StoreDtype
from aisle.types.text_marks import count_marks

__all__ = ["build_index", "finish_version"]


def build_index(
    index_dir: StrPath,
    *,
    product_ids: Iterable[str],
    payload: pa.Table,
    embeddings: Iterable[npt.NDArray[np.float32]],
    dim: int,
    fingerprint: str,
    encoder: Mapping[str, object],
    text_template: str | None = None,
    texts: Iterable[str] | None = None,
    language: Language = "english",
    backend: str = DEFAULT_BACKEND,
    ef_search: int | None = None,
    target_recall: float | None = None,
    store_dtype: StoreDtype = "float32",
    threads: int | None = None,
    keep_versions: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    query_fingerprint: str | None = None,
    **parameters: object,
) -> Manifest:
    """Build a new version of an index and return its manifest; the old version serves until then.

    All other arguments are checked before the first embedding is computed.

    Args:
        index_dir: Directory of the index: missing, empty, or an index.
        product_ids: Unique ids, not blank.
        payload: A row per product, returned with search results; may have no columns.
        embeddings: Chunks of (n, dim) float32, unit L2 norm, in the order of the products; streamed to disk.
        dim: Components of an embedding.
        fingerprint: Fingerprint of the encoder that makes the embeddings.
        encoder: Source of the encoder, as JSON, to load it again.
        text_template: Template that turned a catalogue row into text; None if texts were given directly.
        texts: The embedded text of each product; without them, lexical search and updates are not possible.
        language: Language of the texts; lexical search uses its stems and stop words.
        backend: Graph backend: "hnsw", "exact" for no graph, or a registered one.
        ef_search: Search effort, for "hnsw" the number of candidates kept.
        target_recall: Smallest recall@10 that `ef_search` must reach.
        store_dtype: Number type of the stored embeddings.
        threads: Threads that build the graph.
        keep_versions: Number of versions to keep from now on, including the new one; None keeps the previous
            number, which is 3 at first.
        on_progress: Called with the number of products placed in the graph since the last call.
        query_fingerprint: Fingerprint of the query tower; None if one tower reads both sides.
        parameters: Parameters of the backend. For "hnsw": `M`, links per node, 16 if missing, and
            `ef_construction`, candidates kept while building, 200 if missing.

    Raises:
        ConfigError: The backend or a parameter is unknown, a setting is out of range, or `encoder` is not
            JSON.
        DataError: Product ids, payload or the number of embeddings do not match.
        ModelError: An embedding has the wrong length, is not finite, or is not of unit norm.
        IndexLockedError: Another process is writing the index.
        IndexStoreError: `index_dir` holds something else, or a file cannot be written.
    """
    settings = GraphSettings(backend, parameters, ef_search, target_recall, threads)
    identity = IndexIdentity(
        dim,
        fingerprint,
        encoder,
        text_template,
        store_dtype=store_dtype,
        query_fingerprint=query_fingerprint,
    )
    products, analyser = make_products(product_ids, payload, texts), Analyser.of(language)
    with index_writer(index_dir, command="build", keep_versions=keep_versions) as writer:
        with writing(writer.staging / PRODUCTS_FILE):
            write_products(writer.staging / PRODUCTS_FILE, products)
        write_embeddings(
            writer.staging / EMBEDDINGS_FILE, embeddings, products=products, dim=dim, store_dtype=store_dtype
        )
        manifest = finish_version(
            writer,
            identity=identity,
            settings=settings,
            analyser=analyser,
            command="build",
            on_progress=on_progress,
        )
        return writer.commit(manifest)


def finish_version(
    writer: Writer,
    *,
    identity: IndexIdentity,
    settings: GraphSettings,
    analyser: Analyser | None,
    command: str,
    queries: Scores | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Build graph and lexical index over the staged products, and measure recall.

    Args:
        writer: Writer of the index, after products, embeddings and any text marks were staged.
        identity: Encoder and template of the index.
        settings: Settings of the graph.
        analyser: Analyser that splits the products' texts into words; None without texts.
        command: Command that makes the version.
        queries: (queries, dim) float32 unit vectors to measure recall with; None makes some.
        on_progress: Called with the number of products placed in the graph since the last call.

    Returns:
        The manifest for `Writer.commit`.
    """
    folder = writer.staging
    products = read_products(folder / PRODUCTS_FILE)
    shape = (products.num_rows, identity.dim)
    stored = read_array(folder / EMBEDDINGS_FILE, shape=shape, dtype=identity.store_dtype)
    tie_ranks = rank_ids(products)
    graph = _write_graph(folder, stored, tie_ranks, settings, on_progress)
    write_lexical(folder, products, analyser)
    asked = held_out_queries(stored) if queries is None else queries
    with writing(folder / QUERIES_FILE):
        write_array(folder / QUERIES_FILE, asked)
    tuning = tune(
        graph,
        stored,
        asked,
        tie_ranks=tie_ranks,
        ef_search=settings.ef_search,
        target_recall=settings.target_recall,
        threads=settings.threads,
    )
    return Manifest(
        version=writer.number,
        created="",
        command=command,
        fingerprint=identity.fingerprint,
        query_fingerprint=identity.query_fingerprint,
        encoder=json.loads(json.dumps(dict(identity.encoder))),
        text_template=identity.text_template,
        id_column=identity.id_column,
        dim=identity.dim,
        metric="cosine",
        backend=BackendRecord(
            settings.backend,
            asdict(make_parameters(backend_named(settings.backend), settings.parameters)),
        ),
        count=products.num_rows,
        graph_nodes=graph.groups.live,
        deleted_nodes=len(graph.groups) - graph.groups.live,
        store_dtype=identity.store_dtype,
        files={},
        built_recall=tuning.recall,
        **tuned_fields(tuning),
        **marked_fields(read_marks(folder, count=products.num_rows)),
    )


def tuned_fields(tuning: Tuning) -> dict[str, Any]:
    """Return the manifest's fields for a tuning."""
    return {
        "ef_search": tuning.effort,
        "ann_recall_at_10": tuning.recall,
        "ann_recall_queries": tuning.queries,
        "target_recall": tuning.target,
        "recall_curve": tuning.curve,
    }


def marked_fields(marks: npt.NDArray[np.uint8] | None) -> dict[str, Any]:
    """Return the manifest's fields for the marks of a version's texts; empty without marks."""
    return {} if marks is None else count_marks(marks)


def _write_graph(
    folder: Path,
    stored: FloatArray,
    tie_ranks: Rows,
    settings: GraphSettings,
    on_progress: Callable[[int], None] | None,
) -> Graph:
    """Build the graph over the stored embeddings; write it and the node of each row, and return it."""
    node_of_row = number_nodes(stored)
    with writing(folder / NODES_FILE):
        write_array(folder / NODES_FILE, node_of_row)
    graph = build_graph(
        stored,
        RowGroups.of(node_of_row, tie_ranks),
        backend=settings.backend,
        parameters=settings.parameters,
        threads=settings.threads,
        on_progress=on_progress,
    )
    with writing(folder):
        graph.backend.save(folder)
    return graph
