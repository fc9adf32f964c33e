"""Tests on a GPU: all of this folder is skipped where there is none."""

import os
from pathlib import Path

import pytest
import torch

# tests/kernels/test_triton_kernels.py runs the tests of Triton's kernels in its interpreter.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NEEDS_GPU = pytest.mark.skipif(
    not (torch.cuda.is_available() or INTERPRETED), reason="these kernels run on GPUs alone"
)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(NEEDS_GPU)


@pytest.fixture
def device():
    return torch.device("cuda")
