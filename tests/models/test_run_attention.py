"""Attention over runs against torch's own, text by text."""

import pytest
import torch

from aisle.models.run_attention import RunAttention

RUNS = ((1, 9), (3, 4), (2, 1))
TOKENS = 9 + 12 + 2


def inputs(dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(TOKENS, 2, 3, dtype=dtype, requires_grad=True) for _ in range(3)]


def text_by_text(query, key, value, scaling):
    parts, start = [], 0
    for texts, length in RUNS:
        for _ in range(texts):
            one = [x[start : start + length].transpose(0, 1) for x in (query, key, value)]
            attended = torch.nn.functional.scaled_dot_product_attention(*one, scale=scaling)
            parts.append(attended.transpose(0, 1))
            start += length
    return torch.cat(parts)


@pytest.mark.parametrize("scaling", [0.3, 5.0])
def test_each_text_attends_to_itself_alone(scaling):
    query, key, value = inputs()
    found = RunAttention.apply(query, key, value, RUNS, scaling)
    torch.testing.assert_close(found, text_by_text(query, key, value, scaling))


def test_the_gradients_are_those_of_finite_differences():
    query, key, value = inputs()
    assert torch.autograd.gradcheck(
        lambda *one: RunAttention.apply(*one, RUNS, 0.5), (query, key, value), atol=1e-6
    )


def test_dropped_weights_have_the_gradient_of_what_was_kept():
    query, key, value = inputs()

    def seeded(*one):
        torch.manual_seed(5)
        return RunAttention.apply(*one, RUNS, 0.5, 0.4)

    assert not torch.allclose(seeded(query, key, value), RunAttention.apply(query, key, value, RUNS, 0.5))
    assert torch.autograd.gradcheck(seeded, (query, key, value), atol=1e-6)


def test_inputs_that_are_views_have_the_same_gradients():
    """Backbones hand over (1, heads, tokens, head_dim), turned round."""
    plain = inputs()
    turned = [x.detach().transpose(0, 1).contiguous().requires_grad_() for x in plain]
    torch.manual_seed(1)
    outer = torch.randn(TOKENS, 2, 3, dtype=torch.float64)
    RunAttention.apply(*plain, RUNS, 0.5).backward(outer)
    views = [x.transpose(0, 1) for x in turned]
    RunAttention.apply(*views, RUNS, 0.5).backward(outer.transpose(0, 1).contiguous().transpose(0, 1))
    for one, other in zip(plain, turned, strict=True):
        torch.testing.assert_close(other.grad.transpose(0, 1), one.grad)
