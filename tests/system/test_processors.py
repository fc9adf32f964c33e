"""How many processors are used, and how threads wait, seen from programs of their own."""

import os
import subprocess
import sys

import joblib
import pytest

from aisle.system.processors import available_processors
from tests.skip_reasons import NOT_LIBGOMP

OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
LOAD_TORCH_AFTER_A_COMMAND = (
    "from aisle.cli import main\nimport sys\nassert main(['push', '/nowhere/at/all']) == 2\nimport torch\n"
)


def openmp_settings(code, **environment):
    """Return what libgomp says of its settings when `code` loads it, by name."""
    clean = {name: value for name, value in os.environ.items() if name not in OPENMP}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "OMP_DISPLAY_ENV": "verbose", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.partition(" = ") for line in done.stderr.splitlines() if " = '" in line]
    found = {name.split()[-1]: value.strip("'") for name, _, value in lines}
    if "GOMP_SPINCOUNT" not in found:
        pytest.skip(NOT_LIBGOMP)
    return found


def test_a_commands_threads_sleep_soon_where_they_wait():
    found = openmp_settings(LOAD_TORCH_AFTER_A_COMMAND)
    assert (found["OMP_WAIT_POLICY"], found["GOMP_SPINCOUNT"]) == ("PASSIVE", "2000")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"OMP_WAIT_POLICY": "active"}, ("ACTIVE", "30000000000")),
        ({"GOMP_SPINCOUNT": "77"}, ("PASSIVE", "77")),
    ],
)
def test_a_users_own_policy_stands(given, expected):
    found = openmp_settings(LOAD_TORCH_AFTER_A_COMMAND, **given)
    assert (found["OMP_WAIT_POLICY"], found["GOMP_SPINCOUNT"]) == expected


def test_importing_the_library_changes_no_policy():
    assert openmp_settings("import aisle, aisle.models.encoder")["GOMP_SPINCOUNT"] != "2000"


@pytest.fixture
def processors(monkeypatch, tmp_path):
    """A function that returns the processors of a process that has eight, in a container with some files."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("aisle.system.processors.CGROUP", tmp_path)
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)

    def found(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        return available_processors()

    return found


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu.max": "900000 100000\n"}, 8),
        ({"cpu.max": ""}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "250000\n"}, 8),
    ],
)
def test_a_containers_quota_limits_the_processors(processors, files, expected):
    assert processors(files) == expected


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("20", 8), ("0", 8), ("many", 8), ("", 8)])
def test_the_users_limit_lowers_the_number(processors, monkeypatch, given, expected):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", given)

    assert processors({}) == expected


def test_the_number_on_this_machine_is_joblibs():
    assert available_processors() == joblib.cpu_count()
