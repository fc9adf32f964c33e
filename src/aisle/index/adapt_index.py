"""Publish a query adapter with an index, as a new version that shares all other files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aisle.index.array_files import link_files, writing
from aisle.index.layout import StrPath
from aisle.index.manifest import ADAPTER_FILE, CALIBRATION_FILE, AdapterRecord, Manifest
from aisle.index.query_adapter import QueryAdapter, write_adapter
from aisle.index.reader import open_index
from aisle.index.search_index import SearchIndex
from aisle.index.writer import index_writer

__all__ = ["adapt_index"]


def adapt_index(
    index_dir: StrPath,
    train: Callable[[SearchIndex], tuple[QueryAdapter, AdapterRecord] | None],
    *,
    keep_versions: int | None = None,
) -> Manifest:
    """Train a query adapter for the current version and publish it; return the current version's manifest.

    Other commands cannot change the index meanwhile. The new version shares products, embeddings and graph
    with the version before. A calibration is left out, because the scores change.

    Args:
        index_dir: Directory of the index.
        train: Function that returns an adapter and its record; None publishes nothing.
        keep_versions: Number of versions to keep from now on, including the new one; None keeps the number.

    Raises:
        IndexLockedError: Another process is writing the index.
        IndexStoreError: The index is damaged, or a file cannot be written.
    """
    with index_writer(index_dir, command="adapt", keep_versions=keep_versions) as writer:
        index = open_index(index_dir)
        trained = train(index)
        if trained is None:
            return index.manifest
        adapter, record = trained
        kept = [name for name in index.manifest.files if name not in (CALIBRATION_FILE, ADAPTER_FILE)]
        link_files(index.directory, writer.staging, kept)
        with writing(writer.staging / ADAPTER_FILE):
            write_adapter(writer.staging, adapter)
        return writer.commit(replace(index.manifest, command="adapt", query_adapter=record))
