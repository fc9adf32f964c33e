"""The calibration of an index: a file of its version, kept while scores mean the same."""

import hashlib
import json
from dataclasses import replace

import pytest

from aisle.errors import IndexIntegrityError
from aisle.index import compact_index, delete_products, list_versions, open_index, retune_index, rollback
from aisle.index.calibrate_index import calibrate_index
from aisle.index.manifest import CALIBRATION_FILE, MANIFEST_FILE, FileRecord, write_manifest
from aisle.types.score_calibration import Calibration, OperatingPoint, ReliabilityBin, ScoreCalibration

DENSE = ScoreCalibration(
    scores=(-0.25, 0.1, 1 / 3),
    probabilities=(0.0, 0.1, 0.9),
    pairs=40,
    relevant=9,
    calibration_error=0.03,
    brier=0.1,
    reliability=(ReliabilityBin(0.05, 0.1, 30), ReliabilityBin(0.9, 0.6, 10)),
    points=(OperatingPoint(0.5, 0.2166, 0.9, 0.8), OperatingPoint(0.95, None, 0.0, 0.0)),
)
CALIBRATION = Calibration(
    version=1,
    created="2026-01-31T09:30:00+00:00",
    products=30,
    queries=4,
    relevant_from=None,
    unjudged="leave_out",
    depth=100,
    hybrid_weight=None,
    modes={"dense": DENSE},
)


@pytest.fixture
def calibrated(build, clustered, tmp_path):
    build(clustered(30))
    calibrate_index(tmp_path / "index", lambda _: CALIBRATION)
    return tmp_path / "index"


def test_a_calibration_is_read_back_as_it_was_stored(calibrated):
    index = open_index(calibrated)

    assert index.calibration == CALIBRATION
    assert (index.manifest.command, index.manifest.version) == ("calibrate", 2)
    assert open_index(calibrated, version=1).calibration is None


def test_calibrating_again_replaces_the_calibration(calibrated):
    calibrate_index(calibrated, lambda index: replace(CALIBRATION, version=index.manifest.version))

    assert open_index(calibrated).calibration.version == 2
    rollback(calibrated)
    assert open_index(calibrated).calibration.version == 1


def test_an_index_that_cannot_be_measured_stays_as_it_is(calibrated):
    def fail(_index):
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        calibrate_index(calibrated, fail)

    assert len(list_versions(calibrated)) == 2


@pytest.mark.parametrize("change", ["upsert", "delete", "compact", "tune"])
def test_the_calibration_stays_through_changes(calibrated, upsert, clustered, change):
    changes = {
        "upsert": lambda: upsert(["new"], clustered(1, seed=1)),
        "delete": lambda: delete_products(calibrated, ["p00001"]),
        "compact": lambda: compact_index(calibrated),
        "tune": lambda: retune_index(calibrated),
    }

    changes[change]()

    assert open_index(calibrated).calibration == CALIBRATION


def test_a_new_build_has_no_calibration(calibrated, build, clustered):
    build(clustered(30))

    assert open_index(calibrated).calibration is None


def altered(index_dir, current_folder, change):
    """Change the calibration's JSON and the checksums that guard it."""
    folder = current_folder(index_dir)
    manifest = open_index(index_dir).manifest
    path = folder / CALIBRATION_FILE
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    content = path.read_bytes()
    record = FileRecord(hashlib.sha256(content).hexdigest(), len(content))
    changed = replace(manifest, files={**manifest.files, CALIBRATION_FILE: record})
    for place in (folder, index_dir):
        write_manifest(place / MANIFEST_FILE, changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.pop("queries"), "queries: Field required"),
        (lambda document: document["modes"]["dense"].update(scores=[0.0]), "a probability for each score"),
        (lambda document: document["modes"]["dense"].update(scores=[0.3, 0.2, 0.5]), "scores must rise"),
        (lambda document: document["modes"]["dense"].update(probabilities=[0.3, 0.2, 0.5]), "never fall"),
        (lambda document: document["modes"]["dense"].update(probabilities=[0.3, 0.4, 1.5]), "never fall"),
        (lambda document: document["modes"].update(image=document["modes"]["dense"]), "modes.image"),
    ],
)
def test_a_calibration_that_is_none_is_refused_with_the_reason(calibrated, current_folder, change, message):
    altered(calibrated, current_folder, change)

    with pytest.raises(IndexIntegrityError, match=message):
        open_index(calibrated)


def test_an_altered_calibration_is_refused(calibrated, current_folder):
    path = current_folder(calibrated) / CALIBRATION_FILE
    path.write_text(path.read_text().replace("0.1", "0.2", 1))

    with pytest.raises(IndexIntegrityError, match=r"calibration\.json: altered"):
        open_index(calibrated)
