"""Tests on a GPU: all of this folder is skipped where there is none."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from tests.conftest import MINILM_PACKAGE
from tests.skip_reasons import NO_GPU
from tests.tiny_models import write_tokenizer

# tests/kernels/test_triton_kernels.py runs the tests of Triton's kernels in its interpreter.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NEEDS_GPU = pytest.mark.skipif(not (torch.cuda.is_available() or INTERPRETED), reason=NO_GPU)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(NEEDS_GPU)


@pytest.fixture(scope="session")
def minilm_dir(tmp_path_factory):
    """The folder of MiniLM's tokenizer, or of another tokenizer if the package is not installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None:
        return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "words")
    return Path(spec.origin).parent / "model"


@pytest.fixture
def device():
    return torch.device("cuda")
