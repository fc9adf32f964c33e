"""Folder of the real data, and the mark of tests that read it."""

import os
from pathlib import Path

import pytest

GIVEN = os.environ.get("AISLE_BENCH_DATA")
DATA = Path(GIVEN or Path(__file__).parents[2] / "shared" / "data")


def needs_data(test):
    """Mark a test that is skipped without the real data; a folder named in AISLE_BENCH_DATA must exist."""
    absent = pytest.mark.skipif(
        not DATA.is_dir() and not GIVEN, reason="the real data is not here; set AISLE_BENCH_DATA"
    )
    return pytest.mark.data(absent(test))
