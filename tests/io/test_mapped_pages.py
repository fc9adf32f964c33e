"""Pages of a memory-mapped array are unmapped, and read again when they are needed."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from aisle.io.mapped_pages import release_pages
from tests.skip_reasons import NO_MAPPED_MEMORY

STATUS = Path("/proc/self/status")
REPORTED = STATUS.exists() and hasattr(mmap, "MADV_DONTNEED")


def mapped_kib():
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:"))


@pytest.mark.skipif(not REPORTED, reason=NO_MAPPED_MEMORY)
def test_the_pages_of_a_mapped_array_are_released_and_its_values_stay(tmp_path):
    numbers = np.arange(4_000_000, dtype=np.float32).reshape(-1, 100)
    np.save(tmp_path / "numbers.npy", numbers)
    mapped = np.asarray(np.load(tmp_path / "numbers.npy", mmap_mode="r"))[1:]
    total = mapped.sum(dtype=np.float64)
    before = mapped_kib()
    release_pages(mapped)
    assert before - mapped_kib() > 12_000  # of 15,625
    assert mapped.sum(dtype=np.float64) == total


def test_other_arrays_are_left_alone():
    numbers = np.arange(10)
    release_pages(numbers)
    assert numbers.tolist() == list(range(10))
