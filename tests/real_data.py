"""Folder of the real data, and the mark of tests that read it."""

import os
from pathlib import Path

import pytest

from tests.skip_reasons import NO_REAL_DATA

GIVEN = os.environ.get("AISLE_BENCH_DATA")
DATA = Path(GIVEN or Path(__file__).parents[2] / "shared" / "data")


def needs_data(test):
    """Mark a test that is skipped without the real data; a folder named in AISLE_BENCH_DATA must exist."""
    absent = pytest.mark.skipif(not DATA.is_dir() and not GIVEN, reason=NO_REAL_DATA)
    return pytest.mark.data(absent(test))
