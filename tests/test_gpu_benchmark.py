"""The GPU benchmark runs on a CPU with a tiny model, so that a GPU's time is not lost to a mistake in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    flags = ["--device", "cpu", "--tiny", "--batches", "8", "--output_dir", folder]
    contenders = ["--contenders", "aisle", "aisle --dropout 0", "aisle --no_such_flag", "minimal eager"]
    done = subprocess.run(
        [sys.executable, PROJECT / "benchmarks" / "gpu_training.py", *flags, *contenders],
        cwd=folder,
        env=os.environ | {"AISLE_BENCH_DATA": str(folder)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "gpu_training.json").read_text()) | {"printed": done.stdout, "folder": folder}


def test_every_contender_is_timed(report):
    timed = {run["contender"]: run for run in report["train"] if "note" not in run}

    assert set(timed) == {"aisle", "aisle --dropout 0", "minimal eager"}
    assert all(run["pairs_per_second"] > 0 and run["timed_steps"] == 10 for run in timed.values())
    assert "| 8 | aisle | minimal eager |" in report["printed"]


def test_a_contender_that_fails_leaves_a_note_and_the_others_go_on(report):
    (failed,) = (run for run in report["train"] if "note" in run)

    assert failed["contender"] == "aisle --no_such_flag"
    assert failed["note"].startswith("failed: ")


def test_embedding_and_its_parts_are_timed(report):
    ways = {entry["contender"]: entry["texts_per_second"] for entry in report["embed"]}

    assert len(ways) == 4
    assert min(ways.values()) > 0


def test_the_profile_counts_a_step(report):
    (step,) = report["profile"]

    assert step["host_ms"] > 0
    assert "aten::addmm" in (report["folder"] / "profile_8.txt").read_text()
