"""Attention over short packed texts: compared with each text computed weight by weight in float64."""

from itertools import pairwise

import pytest
import torch

from tests.gpu.kernel_device import (
    DEVICE,
    INTERPRETED,
    TYPES,
    captured,
    compiled_only,
    random_state,
    restore,
    seeded,
)

__all__ = ["seeded"]
LENGTHS = (128, 70, 33, 31, 17, 16, 7, 0, 2, 1, 1)
"""Both sides of every tile's size, an empty text among them, and not in order."""
SHORTER = tuple(length for length in LENGTHS if INTERPRETED or length <= 33)
"""The same for tests of which a GPU compiles only the kernels of small tiles, to save time; see `LENGTHS`."""
LONG = 128 if INTERPRETED else 64
LARGEST_ERROR = {torch.float32: 2e-5, torch.bfloat16: 0.02, torch.float16: 3e-3}
"""Error of a value relative to the largest; half precision rounds the weights and what is stored."""


@pytest.fixture(scope="module")
def kernel():
    from aisle.kernels import short_attention

    return short_attention


def offsets_of(lengths):
    ends = torch.tensor([0, *lengths]).cumsum(0)
    return ends.to(DEVICE, torch.int32)


def random_heads(dtype, *, heads=2, head_dim=64, lengths=LENGTHS):
    """Return a joint projection, (tokens, 3, heads, head_dim), and the gradient of the attention."""
    draw = torch.Generator().manual_seed(0)
    joint = torch.randn(sum(lengths), 3, heads, head_dim, generator=draw)
    gradient = torch.randn(sum(lengths), heads, head_dim, generator=draw)
    return joint.to(DEVICE, dtype).requires_grad_(), gradient.to(DEVICE, dtype)


def in_float64(joint, gradient, lengths, *, scaling, causal=False, kept=None):
    """Return the attention and the gradient of the joint projection.

    `kept` has the factors of each text's weights, (heads, length, length), if there is dropout.
    """
    joint = joint.detach().double().cpu().requires_grad_()
    parts = []
    for number, (start, end) in enumerate(pairwise(offsets_of(lengths).tolist())):
        query, key, value = (one.transpose(0, 1) for one in joint[start:end].unbind(1))
        scores = query @ key.transpose(1, 2) * scaling
        if causal:
            hidden = torch.ones(end - start, end - start).triu(1).bool()
            scores = scores.masked_fill(hidden, -torch.inf)
        weights = scores.softmax(dim=-1)
        parts.append(((weights if kept is None else weights * kept[number]) @ value).transpose(0, 1))
    attended = torch.cat(parts)
    attended.backward(gradient.double().cpu())
    return attended.detach(), joint.grad


def assert_close(found, expected, dtype):
    error = (found.detach().double().cpu() - expected).abs().max() / expected.abs().max()
    assert error < LARGEST_ERROR[dtype]


@pytest.mark.parametrize(
    ("dtype", "heads", "head_dim", "causal", "lengths"),
    [(TYPES[0], 2, 64, False, LENGTHS), (TYPES[1], 3, 24, True, SHORTER)],
    ids=str,
)
def test_each_text_attends_to_itself(dtype, heads, head_dim, causal, lengths, kernel):
    joint, gradient = random_heads(dtype, heads=heads, head_dim=head_dim, lengths=lengths)

    found = kernel.short_attention(
        *joint.unbind(1), offsets_of(lengths), longest=max(lengths), scaling=0.2, causal=causal
    )
    found.backward(gradient)

    attended, of_joint = in_float64(joint, gradient, lengths, scaling=0.2, causal=causal)
    assert found.dtype == dtype
    assert_close(found, attended, dtype)
    assert_close(joint.grad, of_joint, dtype)


def test_texts_of_any_order_of_heads_and_tokens_in_memory_are_read(kernel):
    lengths = (7, 3)
    joint, gradient = random_heads(torch.float32, lengths=lengths)
    dtype = TYPES[0]
    # Heads before tokens, as after `transpose(1, 2).contiguous()`.
    query, key, value = (
        one.detach().to(dtype).transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
        for one in joint.unbind(1)
    )

    found = kernel.short_attention(query, key, value, offsets_of(lengths), longest=7, scaling=0.2)
    found.backward(gradient.to(dtype).transpose(0, 1).contiguous().transpose(0, 1))

    attended, of_joint = in_float64(joint, gradient, lengths, scaling=0.2)
    assert_close(found, attended, dtype)
    assert_close(torch.stack((query.grad, key.grad, value.grad), dim=1), of_joint, dtype)


def test_gradients_are_views_of_one_tensor_for_a_joint_projection(kernel):
    joint, gradient = random_heads(TYPES[0], lengths=(7, 3))
    parts = [one.detach().requires_grad_() for one in joint.unbind(1)]
    found = kernel.short_attention(*parts, offsets_of((7, 3)), longest=7, scaling=0.2)

    gradients = torch.autograd.grad(found, parts, gradient)

    width = 2 * 64
    assert [one.storage_offset() for one in gradients] == [0, width, 2 * width]
    assert {one.untyped_storage().data_ptr() for one in gradients} == {
        gradients[0].untyped_storage().data_ptr()
    }


def kept_weights(kernel, lengths, *, heads, rate):
    """Return the factors of each text's weights: (heads, length, length), from what equal scores attend to.

    The values are unit vectors, so that each number of the attention is a weight.
    """
    tokens = sum(lengths)
    query = torch.zeros(tokens, heads, max(64, *lengths), device=DEVICE, dtype=TYPES[0])
    value = torch.zeros_like(query)
    for start, end in pairwise(offsets_of(lengths).tolist()):
        value[start:end, :, : end - start] = torch.eye(end - start, dtype=value.dtype, device=DEVICE)[:, None]
    attended = kernel.short_attention(
        query, query, value, offsets_of(lengths), longest=max(lengths), scaling=1.0, dropout=rate
    )
    return [
        attended[start:end, :, : end - start].transpose(0, 1).double().cpu() * (end - start)
        for start, end in pairwise(offsets_of(lengths).tolist())
    ]


@pytest.mark.usefixtures("seeded")
def test_dropout_keeps_the_share_and_the_expectation(kernel):
    lengths = (LONG, 64, 31, 16, 16)

    kept = kept_weights(kernel, lengths, heads=3, rate=0.3)

    for length, weights in zip(lengths, kept, strict=True):
        deviation = (0.3 * 0.7 / weights.numel()) ** 0.5
        assert abs((weights > 0).double().mean() - 0.7) < 4 * deviation, length
        torch.testing.assert_close(
            weights[weights > 0].mean(), torch.tensor(1 / 0.7).double(), rtol=0.01, atol=0
        )
    # Heads, rows, columns and texts drop different weights.
    first = kept[0] > 0
    for other in (first.roll(1, 0), first.roll(1, 1), *(first.roll(shift, 2) for shift in (1, 2, 8, 32))):
        assert abs((first == other).double().mean() - (0.49 + 0.09)) < 0.03
    assert (kept[3] != kept[4]).any()


@pytest.mark.usefixtures("seeded")
def test_the_backward_pass_drops_the_weights_that_the_forward_pass_dropped(kernel):
    dtype, lengths = TYPES[0], (LONG, 40, 31, 7, 1)
    joint, gradient = random_heads(dtype, lengths=lengths)
    state = random_state()
    kept = kept_weights(kernel, lengths, heads=2, rate=0.25)
    restore(state)

    found = kernel.short_attention(
        *joint.unbind(1), offsets_of(lengths), longest=LONG, scaling=0.2, dropout=0.25
    )
    found.backward(gradient)

    kept = [(one > 0).double() / 0.75 for one in kept]
    attended, of_joint = in_float64(joint, gradient, lengths, scaling=0.2, kept=kept)
    assert_close(found, attended, dtype)
    assert_close(joint.grad, of_joint, dtype)


@pytest.mark.usefixtures("seeded")
def test_a_restored_random_state_repeats_the_dropout_and_the_next_call_has_another(kernel):
    state = random_state()
    first = kept_weights(kernel, (16,), heads=1, rate=0.5)
    second = kept_weights(kernel, (16,), heads=1, rate=0.5)
    restore(state)
    repeated = kept_weights(kernel, (16,), heads=1, rate=0.5)

    assert (first[0] != second[0]).any()
    torch.testing.assert_close(first, repeated, rtol=0, atol=0)


@pytest.mark.usefixtures("seeded")
def test_results_do_not_depend_on_how_many_heads_a_program_computes(kernel, monkeypatch):
    lengths = (17 if INTERPRETED else 16, 1)
    joint, gradient = random_heads(TYPES[0], heads=4, lengths=lengths)
    state = random_state()
    found = []
    for enough in (1, 1 << 20):
        monkeypatch.setattr(kernel, "ENOUGH_PROGRAMS", enough)
        restore(state)
        joint.grad = None
        attended = kernel.short_attention(
            *joint.unbind(1), offsets_of(lengths), longest=max(lengths), scaling=0.2, dropout=0.25
        )
        attended.backward(gradient)
        found.append((attended, joint.grad))

    torch.testing.assert_close(*found, rtol=0, atol=0)


@compiled_only
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_cuda_graph_computes_new_texts_with_new_dropout(rate, kernel):
    joint, gradient = random_heads(torch.bfloat16)
    offsets = offsets_of(LENGTHS)

    def both_passes():
        attended = kernel.short_attention(*joint.unbind(1), offsets, longest=128, scaling=0.2, dropout=rate)
        return attended, *torch.autograd.grad(attended, joint, gradient)

    graph, replayed = captured(both_passes)
    lengths = tuple(reversed(LENGTHS))
    offsets.copy_(offsets_of(lengths))

    graph.replay()
    first = [one.clone() for one in replayed]
    graph.replay()

    if rate:
        assert (first[0] != replayed[0]).any()
        assert all(bool(torch.isfinite(one).all()) for one in replayed)
        return
    expected = in_float64(joint, gradient, lengths, scaling=0.2)
    for found, reference in zip(replayed, expected, strict=True):
        assert_close(found, reference, torch.bfloat16)
