"""Dropout, residual connection and layer norm in one kernel: compared with torch's in float64."""

import pytest
import torch
from torch.nn import functional

from tests.gpu.kernel_device import DEVICE, TYPES, captured, compiled_only, random_state, restore, seeded

__all__ = ["seeded"]

LARGEST_ERROR = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 3e-3}
"""Error of a value relative to the largest; half precision rounds the sum and what is stored."""
EPSILON = 1e-5


@pytest.fixture(scope="module")
def kernel():
    from aisle.kernels import add_norm

    return add_norm


def random_rows(dtype, *, shape=(1, 9, 48), weight_type=None):
    """Return hidden, residual, weight, bias and a gradient; the rows have a mean far from 0."""
    draw = torch.Generator().manual_seed(0)
    hidden, residual, gradient = (torch.randn(shape, generator=draw).to(DEVICE, dtype) for _ in range(3))
    weight, bias = (torch.randn(shape[-1], generator=draw).to(DEVICE, weight_type or dtype) for _ in range(2))
    return hidden.requires_grad_(), (residual + 3).requires_grad_(), weight, bias, gradient


def in_float64(hidden, residual, weight, bias, gradient, factors=1.0):
    """Return the norm and the gradients of hidden and residual; dropout multiplies by `factors`."""
    hidden, residual = (one.detach().double().cpu().requires_grad_() for one in (hidden, residual))
    weight, bias, gradient = (one.double().cpu() for one in (weight, bias, gradient))
    found = functional.layer_norm(hidden * factors + residual, weight.shape, weight, bias, EPSILON)
    return found.detach(), *torch.autograd.grad(found, (hidden, residual), gradient)


def both_passes(kernel, hidden, residual, weight, bias, gradient, **options):
    found = kernel.add_norm(hidden, residual, weight, bias, epsilon=EPSILON, **options)
    return found, *torch.autograd.grad(found, (hidden, residual), gradient)


def assert_close(found, expected, dtype):
    for one, reference in zip(found, expected, strict=True):
        assert one.dtype == dtype
        error = (one.detach().double().cpu() - reference).abs().max() / reference.abs().max()
        assert error < LARGEST_ERROR[dtype]


@pytest.mark.parametrize(
    ("dtype", "width", "weight_type"),
    [(TYPES[0], 32, None), (TYPES[0], 1024, None), (TYPES[1], 48, torch.float32)],
    ids=str,
)
def test_sums_are_normed_as_in_float64(dtype, width, weight_type, kernel):
    rows = random_rows(dtype, shape=(2, 5, width), weight_type=weight_type)

    assert_close(both_passes(kernel, *rows), in_float64(*rows), dtype)


def test_rows_that_are_not_contiguous_are_read(kernel):
    hidden, residual, *others = random_rows(TYPES[0], shape=(4, 3, 48))
    hidden, residual = (one.detach().transpose(0, 1).requires_grad_() for one in (hidden, residual))
    gradient = others.pop().transpose(0, 1)

    found = both_passes(kernel, hidden, residual, *others, gradient)

    assert_close(found, in_float64(hidden, residual, *others, gradient), TYPES[0])


def test_no_rows_are_no_error(kernel):
    found = both_passes(kernel, *random_rows(TYPES[0], shape=(0, 48)))

    assert [one.shape for one in found] == [(0, 48)] * 3


def test_without_gradients_nothing_is_kept(kernel):
    rows = random_rows(TYPES[0])
    with torch.no_grad():
        found = kernel.add_norm(*rows[:4], epsilon=EPSILON)

    assert found.grad_fn is None
    assert_close([found], in_float64(*rows)[:1], TYPES[0])


@pytest.mark.usefixtures("seeded")
def test_dropout_keeps_the_share_and_both_passes_drop_the_same(kernel):
    dtype, rate = TYPES[0], 0.3
    hidden, residual, weight, bias, gradient = random_rows(dtype, shape=(19, 384))
    found = both_passes(kernel, hidden, residual, weight, bias, gradient, dropout=rate)

    # The gradient of a dropped value is 0, and that of a kept value is the residual's, scaled up.
    kept = (found[1] != 0).cpu()
    factors = kept.double() / (1 - rate)
    deviation = (rate * (1 - rate) / kept.numel()) ** 0.5
    assert abs(kept.double().mean() - (1 - rate)) < 4 * deviation
    for other in (kept.roll(1, 0), kept.roll(8, 0), kept.roll(1, 1)):
        assert abs((kept == other).double().mean() - (rate**2 + (1 - rate) ** 2)) < 0.03
    assert_close(found, in_float64(hidden, residual, weight, bias, gradient, factors), dtype)


@pytest.mark.usefixtures("seeded")
def test_a_restored_random_state_repeats_the_dropout_for_any_number_of_rows_a_program(kernel, monkeypatch):
    rows = random_rows(TYPES[0])
    state = random_state()
    found = []
    for count in (1, 2, 8):
        monkeypatch.setattr(kernel, "ROWS", count)
        restore(state)
        found.append(both_passes(kernel, *rows, dropout=0.5))
    other = both_passes(kernel, *rows, dropout=0.5)

    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=0)
    assert (other[0] != found[0][0]).any()


@compiled_only
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_cuda_graph_computes_new_rows_with_new_dropout(rate, kernel):
    rows = random_rows(torch.bfloat16)
    graph, replayed = captured(lambda: both_passes(kernel, *rows, dropout=rate))
    with torch.no_grad():
        rows[0].copy_(rows[0].flip(1))

    graph.replay()
    first = [one.clone() for one in replayed]
    graph.replay()

    if rate:
        assert (first[0] != replayed[0]).any()
    else:
        assert_close(replayed, in_float64(*rows), torch.bfloat16)
