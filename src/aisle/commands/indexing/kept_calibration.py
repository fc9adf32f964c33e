"""Keep the calibration of the version before in a new build, if its scores still mean the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aisle.commands.indexing.analysers import analyser_before
from aisle.commands.indexing.version_changes import manifest_before, what_changed
from aisle.index import Manifest
from aisle.index.analyser import Analyser
from aisle.index.array_files import link_files
from aisle.index.fusion import DEFAULT_WEIGHT
from aisle.index.integrity import file_problem
from aisle.index.layout import version_directory
from aisle.index.manifest import CALIBRATION_FILE
from aisle.index.stored_calibration import read_calibration


def keep_calibration(
    index_dir: Path,
    folder: Path,
    manifest: Manifest,
    *,
    analyser: Analyser,
    hybrid_weight: float | None,
    log: Callable[[str], None],
) -> str | None:
    """Link the calibration of the current version into a staged version; return why it is lost, or None.

    A cosine depends on the encoder and both texts only, and the share of the highest BM25 score changes
    little with the catalogue, so a calibration holds for a catalogue that grows or changes.

    Args:
        index_dir: Index directory; its current version is the version before.
        folder: Folder of the staged version.
        manifest: Manifest of the staged version.
        analyser: Analyser of the staged version.
        hybrid_weight: Weight of hybrid search in the staged version; None is the default.
        log: Function that prints a line.
    """
    before = manifest_before(index_dir)
    if before is None or CALIBRATION_FILE not in before.files:
        return None
    source = version_directory(index_dir, before.version)
    lost = what_changed(before, manifest, analyser_before(index_dir), analyser)
    record = before.files[CALIBRATION_FILE]
    lost = lost or file_problem(source / CALIBRATION_FILE, record, verify="checksums")
    if lost is not None:
        log(f"the calibration of version {before.version} is not kept, because {lost}; run aisle calibrate")
        return lost
    link_files(source, folder, [CALIBRATION_FILE])
    kept = f"the calibration is kept from version {before.version}"
    calibration = read_calibration(folder, before)
    calibrated = None if calibration is None else calibration.hybrid_weight
    weight = DEFAULT_WEIGHT if hybrid_weight is None else hybrid_weight
    if calibrated is not None and calibrated != weight:
        kept += f"; its hybrid scores are for the weight {calibrated:g}, not {weight:g}: run aisle calibrate"
    log(kept)
    return None
