"""Skipped tests: CI allows only skips for hardware that the machine lacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = """
import pytest

from tests.skip_reasons import NO_GPU

@pytest.mark.skip(reason=NO_GPU)
def test_of_the_machine(): ...

@pytest.mark.skip(reason="Chromium is not installed")
def test_of_a_program(): ...
"""
TOGETHER = ("--continue-on-collection-errors", "test_cases.py", "test_module.py")
MODULE = "import pytest\npytest.skip('Chromium is not installed', allow_module_level=True)\n"


@pytest.mark.parametrize(
    ("given", "workers", "code"),
    [({"AISLE_SKIPS_FAIL": "1"}, 0, 1), ({"AISLE_SKIPS_FAIL": "1"}, 1, 1), ({}, 0, 0)],
)
def test_a_skip_for_want_of_a_program_fails_in_ci(given, workers, code, tmp_path):
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text("utf-8"))
    (tmp_path / "test_cases.py").write_text(CASES)
    (tmp_path / "test_module.py").write_text(MODULE)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AISLE_", "PYTEST_"))
    }

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "-n", str(workers), *TOGETHER],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[1]), **given},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode != 0) == bool(code), done.stdout
    summary = done.stdout.partition("short test summary")[2]
    for failed in ("test_of_a_program", "test_module.py"):
        assert (failed in summary) == bool(code), done.stdout
    assert done.stdout.count("must not be skipped") >= 2 * code
    assert "test_of_the_machine" not in done.stdout
