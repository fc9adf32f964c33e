"""Compact an index (build its graph again) and retune it (measure recall and set the effort again)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aisle.errors import ConfigError
from aisle.index.array_files import link_files, read_queries
from aisle.index.backends import backend_named, effort_problem
from aisle.index.build_settings import GraphSettings, IndexIdentity
from aisle.index.builder import finish_version, tuned_fields
from aisle.index.layout import StrPath
from aisle.index.lexical import analyser_of
from aisle.index.manifest import (
    CALIBRATION_FILE,
    EMBEDDINGS_FILE,
    MARKS_FILE,
    PRODUCTS_FILE,
    QUERIES_FILE,
    Manifest,
)
from aisle.index.reader import open_index, open_stored
from aisle.index.tuning import tune
from aisle.index.writer import index_writer

__all__ = ["compact_index", "retune_index", "wants_compacting"]

MOST_DELETED = 0.2
MOST_RECALL_LOST = 0.01


def wants_compacting(manifest: Manifest) -> str | None:
    """Return the reason to compact an index, or None."""
    if not backend_named(manifest.backend.name).files:  # there is no graph to rebuild
        return None
    labels = manifest.graph_nodes + manifest.deleted_nodes
    lost = manifest.built_recall - manifest.ann_recall_at_10
    if lost > MOST_RECALL_LOST:
        return f"recall@10 fell by {lost:.3f} since the graph was built"
    if manifest.deleted_nodes > MOST_DELETED * labels:
        return f"{manifest.deleted_nodes / labels:.0%} of the graph's nodes belong to deleted products"
    return None


def compact_index(
    index_dir: StrPath,
    *,
    threads: int | None = None,
    keep_versions: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Build the graph again without the nodes of deleted products; return the new version's manifest.

    Args:
        index_dir: Directory of the index.
        threads: Threads that build the graph; None is one per core, 1 makes builds repeatable.
        keep_versions: Number of versions to keep from now on, including the new one; None keeps the number.
        on_progress: Called with the number of products placed in the graph since the last call.

    Raises:
        IndexLockedError: Another process is writing the index.
        IndexStoreError: The index is damaged, or a file cannot be written.
    """
    with index_writer(index_dir, command="compact", keep_versions=keep_versions) as writer:
        index = open_stored(writer.index_dir, also=(QUERIES_FILE,))  # the old graph is not needed
        manifest = index.manifest
        kept = (PRODUCTS_FILE, EMBEDDINGS_FILE, MARKS_FILE, CALIBRATION_FILE, *manifest.adapter_files)
        link_files(index.directory, writer.staging, [name for name in kept if name in manifest.files])
        chosen = manifest.target_recall is None
        built = finish_version(
            writer,
            identity=IndexIdentity(
                dim=manifest.dim,
                fingerprint=manifest.fingerprint,
                query_fingerprint=manifest.query_fingerprint,
                encoder=manifest.encoder,
                text_template=manifest.text_template,
                id_column=manifest.id_column,
                store_dtype=manifest.store_dtype,
            ),
            settings=GraphSettings(
                manifest.backend.name,
                manifest.backend.parameters,
                manifest.ef_search if chosen else None,
                manifest.target_recall,
                threads,
            ),
            analyser=analyser_of(index.directory, manifest),
            command="compact",
            queries=read_queries(index.directory, dim=manifest.dim),
            on_progress=on_progress,
        )
        built = replace(built, hybrid_weight=manifest.hybrid_weight, query_adapter=manifest.query_adapter)
        return writer.commit(built)


def retune_index(
    index_dir: StrPath,
    *,
    target_recall: float | None = None,
    ef_search: int | None = None,
    threads: int | None = None,
    keep_versions: int | None = None,
) -> Manifest:
    """Measure recall again and set `ef_search`, without a new build; return the new manifest.

    Args:
        index_dir: Directory of the index.
        target_recall: Smallest recall@10 to reach; 0.98 if neither is given.
        ef_search: Value to set and measure; None chooses it by `target_recall`.
        threads: Threads that search; None is one per core.
        keep_versions: Number of versions to keep from now on, including the new one; None keeps the number.

    Raises:
        ConfigError: Both are given, or the target is not in [0, 1].
        IndexLockedError: Another process is writing the index.
        IndexStoreError: The index is damaged, or a file cannot be written.
    """
    with index_writer(index_dir, command="tune", keep_versions=keep_versions) as writer:
        index = open_index(index_dir)
        problem = effort_problem(type(index.graph.backend), ef_search)
        if problem is not None:
            raise ConfigError(problem)
        tuning = tune(
            index.graph,
            index.embeddings,
            read_queries(index.directory, dim=index.dim),
            tie_ranks=index.tie_ranks,
            ef_search=ef_search,
            target_recall=target_recall,
            threads=threads,
        )
        link_files(index.directory, writer.staging, tuple(index.manifest.files))
        # Recall that changes lost stays lost with the new ef_search, unless it reaches the target.
        lost = max(0.0, index.manifest.built_recall - index.manifest.ann_recall_at_10)
        made_good = tuning.target is not None and tuning.reached
        built_recall = min(1.0, tuning.recall + (0.0 if made_good else lost))
        changed = replace(index.manifest, command="tune", built_recall=built_recall, **tuned_fields(tuning))
        return writer.commit(changed)
