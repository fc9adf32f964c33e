"""Why the Triton kernels are not used. That they are right is tested in tests/gpu."""

import sys

import pytest
import torch

from aisle.kernels import triton_support
from tests.skip_reasons import INTERPRETED_ELSEWHERE

CPU, HALF = torch.device("cpu"), torch.float16


@pytest.fixture(autouse=True)
def asked_afresh():
    triton_support.why_no_triton.cache_clear()
    yield
    triton_support.why_no_triton.cache_clear()


def refuse(*_):
    raise RuntimeError("Failed to find C compiler.\n  Please specify via CC.")


@pytest.mark.parametrize(
    ("largest_error", "reason"),
    [
        (refuse, "Triton does not compile here: Failed to find C compiler. Please specify via CC."),
        (lambda *_: 0.5, "Triton's kernels differ from torch by 0.5 here"),
        (lambda *_: float("nan"), "Triton's kernels differ from torch by nan here"),
        (lambda *_: 0.01, None),
    ],
    ids=["no compiler", "wrong", "not a number", "right"],
)
def test_kernels_that_do_not_compile_or_are_wrong_are_not_used(largest_error, reason, monkeypatch):
    pytest.importorskip("triton", reason=INTERPRETED_ELSEWHERE)
    monkeypatch.setattr(triton_support, "_largest_error", largest_error)

    assert triton_support.why_no_triton(CPU, HALF) == reason


def test_memory_that_runs_out_is_raised_and_the_kernels_are_tried_again(monkeypatch):
    pytest.importorskip("triton", reason=INTERPRETED_ELSEWHERE)

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    monkeypatch.setattr(triton_support, "_largest_error", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        triton_support.why_no_triton(CPU, HALF)
    monkeypatch.setattr(triton_support, "_largest_error", lambda *_: 0.01)

    assert triton_support.why_no_triton(CPU, HALF) is None


def test_a_machine_without_triton_is_no_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)

    assert triton_support.why_no_triton(CPU, HALF) == "Triton is not installed"
