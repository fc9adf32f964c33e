"""Triton's kernels, interpreted on a CPU: the tests of tests/gpu in a process in which Triton interprets."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


FOLDER = Path(sys.prefix) / "triton"
"""Where the Makefile installs Triton for these tests alone."""


@pytest.mark.skipif(
    not FOLDER.is_dir() and importlib.util.find_spec("triton") is None,
    reason="Triton is not installed; run `make test`",
)
@pytest.mark.parametrize(
    "name", ["gpu/test_short_attention.py", "gpu/test_add_norm.py", "kernels/test_triton_support.py"]
)
def test_interpreted_kernels_pass_their_tests(name):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", str(TESTS / name)],
        cwd=TESTS.parent,
        env={**environment, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
