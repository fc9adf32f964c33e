"""Grouped attention, compared with torch's attention for each text."""

import pytest
import torch

from aisle.kernels.grouped_attention import GroupedAttention, group_heads

RUNS = ((1, 9), (3, 4), (2, 1))
"""A single group, with much padding."""
MANY_RUNS = ((2, 3), (40, 60), (9, 58), (30, 20), (1, 19), (3, 60))
"""Several groups, some with padding, in mixed order."""


def inputs(dtype=torch.float64, runs=RUNS):
    torch.manual_seed(0)
    tokens = sum(texts * length for texts, length in runs)
    return [torch.randn(tokens, 2, 3, dtype=dtype, requires_grad=True) for _ in range(3)]


def text_by_text(query, key, value, scaling, runs=RUNS):
    parts, start = [], 0
    for texts, length in runs:
        for _ in range(texts):
            one = [x[start : start + length].transpose(0, 1) for x in (query, key, value)]
            attended = torch.nn.functional.scaled_dot_product_attention(*one, scale=scaling)
            parts.append(attended.transpose(0, 1))
            start += length
    return torch.cat(parts)


@pytest.mark.parametrize("scaling", [0.3, 5.0])
def test_each_text_attends_only_to_itself(scaling):
    query, key, value = inputs()
    found = GroupedAttention.apply(query, key, value, RUNS, scaling)
    torch.testing.assert_close(found, text_by_text(query, key, value, scaling))


def test_texts_in_several_groups_return_to_their_places():
    inputs_of_both = inputs(runs=MANY_RUNS)
    groups = group_heads(MANY_RUNS, 2).groups
    assert len(groups) > 1
    assert {group.hidden is None for group in groups} == {True, False}
    found = GroupedAttention.apply(*inputs_of_both, MANY_RUNS, 0.3)
    expected = text_by_text(*inputs_of_both, 0.3, MANY_RUNS)
    torch.testing.assert_close(found, expected)
    outer = torch.randn_like(found)
    for one, other in zip(
        torch.autograd.grad(found, inputs_of_both, outer),
        torch.autograd.grad(expected, inputs_of_both, outer),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_gradients_equal_finite_differences():
    query, key, value = inputs()
    assert torch.autograd.gradcheck(
        lambda *one: GroupedAttention.apply(*one, RUNS, 0.5), (query, key, value), atol=1e-6
    )


def test_gradients_with_dropout_equal_those_of_the_kept_weights():
    query, key, value = inputs()

    def seeded(*one):
        torch.manual_seed(5)
        return GroupedAttention.apply(*one, RUNS, 0.5, 0.4)

    assert not torch.allclose(seeded(query, key, value), GroupedAttention.apply(query, key, value, RUNS, 0.5))
    assert torch.autograd.gradcheck(seeded, (query, key, value), atol=1e-6)


def test_inputs_that_are_views_have_the_same_gradients():
    """Backbones pass transposed views of (1, heads, tokens, head_dim)."""
    plain = inputs()
    turned = [x.detach().transpose(0, 1).contiguous().requires_grad_() for x in plain]
    torch.manual_seed(1)
    outer = torch.randn_like(plain[0])
    GroupedAttention.apply(*plain, RUNS, 0.5).backward(outer)
    views = [x.transpose(0, 1) for x in turned]
    GroupedAttention.apply(*views, RUNS, 0.5).backward(outer.transpose(0, 1).contiguous().transpose(0, 1))
    for one, other in zip(plain, turned, strict=True):
        torch.testing.assert_close(other.grad.transpose(0, 1), one.grad)
