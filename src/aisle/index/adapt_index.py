"""Publish a query adapter with an index, as a new version that shares all other files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from aisle.index.array_files import link_files, writing
from aisle.index.layout import StrPath
from aisle.index.manifest import CALIBRATION_FILE, AdapterRecord, Manifest
from aisle.index.query_adapter import QueryAdapter, write_adapter
from aisle.index.reader import open_index
from aisle.index.search_index import SearchIndex
from aisle.index.writer import index_writer

__all__ = ["AdapterToPublish", "TrainedFunction", "adapt_index", "with_adapter"]


class AdapterToPublish(Protocol):
    """A trained query adapter, with its record."""

    def write(self, folder: Path) -> AdapterRecord:
        """Write the adapter's files to the folder of a staged version, and return its record."""


@dataclass(frozen=True, eq=False)
class TrainedFunction:
    """An adapter that is a function of query embeddings, to publish.

    Args:
        adapter: The function.
        record: Its record.
    """

    adapter: QueryAdapter
    record: AdapterRecord

    def write(self, folder: Path) -> AdapterRecord:
        """Write the adapter's file to the folder of a staged version, and return its record."""
        write_adapter(folder, self.adapter)
        return self.record


def adapt_index(
    index_dir: StrPath,
    train: Callable[[SearchIndex], AdapterToPublish | None],
    *,
    keep_versions: int | None = None,
) -> Manifest:
    """Train a query adapter for the current version and publish it; return the current version's manifest.

    Other commands cannot change the index meanwhile. The new version shares products, embeddings and graph
    with the version before. A calibration is left out, because the scores change.

    Args:
        index_dir: Directory of the index.
        train: Function that returns an adapter with its record; None publishes nothing.
        keep_versions: Number of versions to keep from now on, including the new one; None keeps the number.

    Raises:
        IndexLockedError: Another process is writing the index.
        IndexStoreError: The index is damaged, or a file cannot be written.
    """
    with index_writer(index_dir, command="adapt", keep_versions=keep_versions) as writer:
        index = open_index(index_dir)
        trained = train(index)
        manifest = index.manifest
        if trained is None:
            return manifest
        left_out = {CALIBRATION_FILE, *manifest.adapter_files}
        link_files(index.directory, writer.staging, [name for name in manifest.files if name not in left_out])
        with writing(writer.staging):
            record = trained.write(writer.staging)
        return writer.commit(with_adapter(replace(manifest, command="adapt"), record))


def with_adapter(manifest: Manifest, record: AdapterRecord) -> Manifest:
    """Return the manifest of a version that gets an adapter, with its query tower if the adapter is that."""
    before = manifest.query_adapter
    changed = replace(manifest, query_adapter=record)
    if record.kind != "lora" and (before is None or before.kind != "lora"):
        return changed
    tower = record.encoder_fingerprint
    return replace(changed, query_fingerprint=None if tower == manifest.fingerprint else tower)
