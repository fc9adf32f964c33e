"""Where the tests of Triton's kernels run: on the GPU, or interpreted on a CPU (TRITON_INTERPRET=1)."""

import os

import pytest
import torch

from tests.skip_reasons import NO_GPU

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
TYPES = (torch.float32, torch.float16) if INTERPRETED else (torch.bfloat16, torch.float16)
"""Types that the kernels compute in; the interpreter multiplies bfloat16 wrongly."""
compiled_only = pytest.mark.skipif(INTERPRETED, reason=NO_GPU)


@pytest.fixture
def seeded():
    """Seed torch's generators and restore them after the test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def random_state():
    return torch.get_rng_state() if INTERPRETED else torch.cuda.get_rng_state()


def restore(state):
    if INTERPRETED:
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state)


def captured(function):
    """Return the CUDA graph of a function of no arguments, and what it returns, as each replay fills it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()  # compiles the kernels
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function()
    return graph, found
