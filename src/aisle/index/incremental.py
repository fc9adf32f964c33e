"""Make a changed version of an index: new rows and nodes, and the old graph updated instead of rebuilt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.errors import DataError
from aisle.index.array_files import (
    link_files,
    read_array,
    read_marks,
    read_queries,
    write_array,
    write_embeddings,
    writing,
)
from aisle.index.backends import NodeVectors
from aisle.index.builder import marked_fields
from aisle.index.dense_search import Graph
from aisle.index.lexical import write_lexical
from aisle.index.manifest import (
    CALIBRATION_FILE,
    EMBEDDINGS_FILE,
    MARKS_FILE,
    NODES_FILE,
    PRODUCTS_FILE,
    QUERIES_FILE,
    Manifest,
)
from aisle.index.products import TAKEN_ROWS, rank_ids, read_products, take_rows
from aisle.index.row_groups import RowGroups, row_digests
from aisle.index.scoring import FloatArray, Rows
from aisle.index.search_index import SearchIndex
from aisle.index.tuning import tune
from aisle.index.writer import Writer

__all__ = ["joined", "stage_change"]

GATHERED_ROWS = 8192


def stage_change(
    writer: Writer,
    index: SearchIndex,
    source: Rows,
    products: pa.Table,
    embeddings: FloatArray,
    *,
    command: str,
    threads: int | None,
    marks: npt.NDArray[np.uint8] | None = None,
) -> Manifest:
    """Stage a version with old and new rows, and the graph updated to match; return its manifest.

    The graph of the open index is changed in place, so do not search that index afterwards.

    Args:
        writer: Writer of the index.
        index: Current version of the index.
        source: Source of each new row, (count,): a row of `index`, or `len(index)` + a row of `products`.
        products: Products that are added or replace others, (new,) rows.
        embeddings: Embeddings of `products`, (new, dim), in the index's number type.
        command: Command that makes the version.
        threads: Threads that add nodes; None is one per core.
        marks: Marks of the texts of `products`, (new,); None if they were not marked.

    Raises:
        DataError: The type of a column differs from the index.
        IndexStoreError: A file cannot be written.
    """
    folder, manifest = writer.staging, index.manifest
    with writing(folder / PRODUCTS_FILE):
        _write_products(folder / PRODUCTS_FILE, index.products, products, source)
    written = read_products(folder / PRODUCTS_FILE, count=len(source))
    write_embeddings(
        folder / EMBEDDINGS_FILE,
        _gathered(index.embeddings, embeddings, source),
        products=written,
        dim=manifest.dim,
        store_dtype=manifest.store_dtype,
    )
    stored = read_array(
        folder / EMBEDDINGS_FILE, shape=(len(source), manifest.dim), dtype=manifest.store_dtype
    )
    tie_ranks = rank_ids(written)
    node_of_row = _node_of_row(index, source, embeddings)
    with writing(folder / NODES_FILE):
        write_array(folder / NODES_FILE, node_of_row)
    graph = _changed_graph(index, stored, node_of_row, tie_ranks, threads)
    with writing(folder):
        graph.backend.save(folder)
    write_lexical(folder, written, index.analyser)
    kept = (QUERIES_FILE, CALIBRATION_FILE, *manifest.adapter_files)
    link_files(index.directory, folder, [name for name in kept if name in manifest.files])
    all_marks = _changed_marks(index, marks, source)
    if all_marks is not None:
        with writing(folder / MARKS_FILE):
            write_array(folder / MARKS_FILE, all_marks)
    tuning = tune(
        graph,
        stored,
        read_queries(index.directory, dim=index.dim),
        tie_ranks=tie_ranks,
        ef_search=manifest.ef_search,
        threads=threads,
    )
    return replace(
        manifest,
        command=command,
        count=len(source),
        graph_nodes=graph.groups.live,
        deleted_nodes=len(graph.groups) - graph.groups.live,
        ann_recall_at_10=tuning.recall,
        ann_recall_queries=tuning.queries,
        **{"truncated_texts": None, "unknown_texts": None, **marked_fields(all_marks)},
    )


def _changed_marks(
    index: SearchIndex, marks: npt.NDArray[np.uint8] | None, source: Rows
) -> npt.NDArray[np.uint8] | None:
    """Return the marks of the new version's rows; None if old or new texts were not marked."""
    old = read_marks(index.directory, count=index.manifest.count)
    if old is None or (marks is None and source.max() >= len(old)):
        return None
    both = old if marks is None else np.concatenate([old, marks])
    return both[source]


def joined(old: pa.Table, new: pa.Table) -> pa.Table:
    """Return two tables one after the other; a column that only one table has is null in the other's rows.

    Raises:
        DataError: The type of a column differs from the index.
    """
    try:
        both = pa.concat_tables([old, new], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"upsert: a column of the products has another type than in the index: {error}; give it the "
            "same type, or build the index again"
        ) from None
    return both.unify_dictionaries()  # an Arrow file has one dictionary per column


def _write_products(path: Path, old: pa.Table, new: pa.Table, source: Rows) -> None:
    both = joined(old, new)
    with path.open("wb") as sink, pa.ipc.new_file(sink, both.schema) as writer:
        for start in range(0, len(source), TAKEN_ROWS):
            writer.write_table(take_rows(both, source[start : start + TAKEN_ROWS]).combine_chunks())


def _gathered(old: FloatArray, new: FloatArray, source: Rows) -> Iterable[npt.NDArray[Any]]:
    """Yield the embeddings of rows, a chunk at a time; row numbers continue from `old` to `new`."""
    for start in range(0, len(source), GATHERED_ROWS):
        rows = source[start : start + GATHERED_ROWS]
        is_new = rows >= len(old)
        chunk = np.empty((len(rows), old.shape[1]), old.dtype)
        chunk[~is_new], chunk[is_new] = old[rows[~is_new]], new[rows[is_new] - len(old)]
        yield chunk


def _node_of_row(index: SearchIndex, source: Rows, embeddings: FloatArray) -> Rows:
    """Return the node of each row: an old node with the same embedding, or a new node."""
    groups, count = index.graph.groups, index.manifest.count
    before = read_array(index.directory / NODES_FILE, shape=(count,), dtype="int64")
    nodes = np.empty(len(source), np.int64)
    is_new = source >= count
    nodes[~is_new] = before[source[~is_new]]
    if not is_new.any():
        return nodes
    # Nodes that lose their rows are included: a replaced product with the same embedding keeps its node.
    live = np.unique(before)
    digests = np.concatenate(
        [
            row_digests(index.embeddings, groups.first(live)),
            row_digests(embeddings, source[is_new] - count),
        ]
    )
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    # `first` is an old row if there is one; digests that only new rows have become new nodes.
    fresh = first >= len(live)
    number = np.empty(len(first), np.int64)
    number[~fresh] = live[first[~fresh]]
    order = np.argsort(first[fresh])
    number[np.flatnonzero(fresh)[order]] = len(groups) + np.arange(len(order))
    nodes[is_new] = number[inverse[len(live) :]]
    return nodes


def _changed_graph(
    index: SearchIndex, stored: FloatArray, node_of_row: Rows, tie_ranks: Rows, threads: int | None
) -> Graph:
    """Change the index's graph in place and return it: add new nodes, and remove nodes without rows.

    A second graph would take too much memory: 42 GB for 10 million products of 1,024 components.
    """
    old = index.graph.groups
    labels = max(len(old), int(node_of_row.max()) + 1)
    groups = RowGroups.of(node_of_row, tie_ranks, nodes=labels)
    numbers = np.arange(len(old))
    gone = numbers[(old.sizes(numbers) > 0) & (groups.sizes(numbers) == 0)]
    backend = index.graph.backend
    backend.remove(gone)
    backend.add(NodeVectors(stored, groups), threads=threads)
    return Graph(backend, groups)
