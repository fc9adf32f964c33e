"""Shared by the tests of exports."""

from functools import cache

import pytest
from torch.onnx._internal.exporter._registration import ONNXRegistry


@pytest.fixture(scope="session", autouse=True)
def operators_read_once():
    """Make torch's exporter read its table of operators once, and not in each of 70 exports (0.4 s each)."""
    read = ONNXRegistry.from_torchlib
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(read)))
        yield
