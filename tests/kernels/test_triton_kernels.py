"""Triton's kernels, interpreted on a CPU: the tests of tests/gpu in a process in which Triton interprets."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed; install the extra 'dev'"
)
@pytest.mark.parametrize("name", ["test_short_attention.py", "test_add_norm.py"])
def test_interpreted_kernels_pass_their_tests(name):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", str(TESTS / "gpu" / name)],
        cwd=TESTS.parent,
        env={**environment, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
