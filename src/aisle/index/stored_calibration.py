"""The calibration in a version of an index: a JSON file with the probabilities of relevance by score."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from pydantic_core import ValidationError

from aisle.errors import IndexIntegrityError
from aisle.index.array_files import writing
from aisle.index.manifest import CALIBRATION_FILE, Manifest
from aisle.io.record_schema import record_validator
from aisle.types.score_calibration import Calibration, ScoreCalibration

__all__ = ["read_calibration", "write_calibration"]


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write the calibration into the folder of a staged version.

    Raises:
        IndexStoreError: The file cannot be written.
    """
    path = folder / CALIBRATION_FILE
    with writing(path):
        path.write_text(json.dumps(asdict(calibration), allow_nan=False) + "\n", encoding="utf-8")


def read_calibration(folder: Path, manifest: Manifest) -> Calibration | None:
    """Return the calibration of a version; None if the version has none.

    Raises:
        IndexIntegrityError: The file is not a calibration that this version of aisle reads.
    """
    if CALIBRATION_FILE not in manifest.files:
        return None
    path = folder / CALIBRATION_FILE
    try:
        calibration: Calibration = record_validator(Calibration).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise IndexIntegrityError(_broken(path, f"{where}: {first['msg']}")) from None
    for mode, scores in calibration.modes.items():
        problem = _problem(scores)
        if problem is not None:
            raise IndexIntegrityError(_broken(path, f"modes.{mode}: {problem}"))
    return calibration


def _problem(calibration: ScoreCalibration) -> str | None:
    """Return why the points are no rising function of the score, or None."""
    scores, probabilities = calibration.scores, calibration.probabilities
    if not scores or len(scores) != len(probabilities):
        return f"needs a probability for each score, found {len(scores)} and {len(probabilities)}"
    if any(not low < high for low, high in pairwise(scores)):
        return "the scores must rise"
    if sorted(probabilities) != list(probabilities) or not 0 <= probabilities[0] <= probabilities[-1] <= 1:
        return "the probabilities must lie in [0, 1] and never fall"
    return None


def _broken(path: Path, found: str) -> str:
    return (
        f"{path}: not a calibration that this aisle reads: {found}; upgrade aisle, or go back to another "
        "version with rollback and calibrate again"
    )
