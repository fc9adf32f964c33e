"""How many processors are used, and how threads wait, seen from programs of their own."""

import os
import subprocess
import sys

import pytest

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
