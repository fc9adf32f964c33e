"""Store a calibration with an index, as a new version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aisle.index.array_files import link_files
from aisle.index.layout import StrPath
from aisle.index.manifest import CALIBRATION_FILE, Manifest
from aisle.index.reader import open_index
from aisle.index.search_index import SearchIndex
from aisle.index.stored_calibration import write_calibration
from aisle.index.writer import index_writer
from aisle.types.score_calibration import Calibration

__all__ = ["calibrate_index"]


def calibrate_index(
    index_dir: StrPath,
    measure: Callable[[SearchIndex], Calibration],
    *,
    keep_versions: int | None = None,
) -> tuple[Manifest, Calibration]:
    """Measure the probabilities of relevance by score and store them; return the new version's manifest too.

    Other commands cannot change the index meanwhile. Products, embeddings and graph stay as they are.

    Args:
        index_dir: Directory of the index.
        measure: Function that returns the calibration of the current version.
        keep_versions: Number of versions to keep from now on, including the new one; None keeps the number.

    Raises:
        IndexLockedError: Another process is writing the index.
        IndexStoreError: The index is damaged, or a file cannot be written.
    """
    with index_writer(index_dir, command="calibrate", keep_versions=keep_versions) as writer:
        index = open_index(index_dir)
        calibration = measure(index)
        kept = [name for name in index.manifest.files if name != CALIBRATION_FILE]
        link_files(index.directory, writer.staging, kept)
        write_calibration(writer.staging, calibration)
        return writer.commit(replace(index.manifest, command="calibrate")), calibration
