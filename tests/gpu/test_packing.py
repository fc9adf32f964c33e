"""Packed texts on a GPU in half precision: attention by hand, dropout, and towers on padded texts."""

import numpy as np
import pytest
import torch

from aisle.kernels.flash_attention import AttentionOptions, flash_attention
from aisle.models.tower import NEEDS_HALF_PRECISION, autocast
from aisle.text.token_batches import PackedBatch, pack
from tests.attention_by_hand import CASES, packed_by_hand
from tests.gpu.kernel_device import captured
from tests.packed_towers import ROWS, gradients, padded_batches, random_texts, tower_without_dropout
from tests.tiny_models import ARCHITECTURES, POSITIONS

HALF_TYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
LARGEST_ERROR = {torch.bfloat16: 0.1, torch.float16: 0.02}
"""Of a value of about 1 to 4, whose parts are rounded before they are added up."""
LENGTHS = (6, 4, 4, 1)
PLAIN = {"scaling": None, "causal": False, "window": None}


def batch_of(lengths, device):
    """Return a batch of which attention reads the boundaries of texts alone; texts may have no tokens."""
    tokens = sum(lengths)
    return PackedBatch(
        input_ids=torch.zeros(tokens, dtype=torch.long),
        positions=torch.zeros(tokens, dtype=torch.long),
        offsets=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        runs=tuple((1, length) for length in lengths),
        longest=max(lengths),
        texts=len(lengths),
    ).to(device)


def random_heads(lengths, device, dtype, *, key_heads=4, head_dim=8):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(sum(lengths), 4, head_dim, generator=generator)
    key, value = torch.randn(2, sum(lengths), key_heads, head_dim, generator=generator)
    return [one.to(device, dtype).requires_grad_() for one in (query, key, value)]


@HALF_TYPES
@pytest.mark.parametrize(("key_heads", "causal", "window"), CASES)
def test_attention_and_its_gradient_are_those_by_hand(key_heads, causal, window, dtype, device):
    inputs = random_heads(LENGTHS, device, dtype, key_heads=key_heads)
    options = {"scaling": 0.3, "causal": causal, "window": window}

    found = flash_attention(*inputs, batch_of(LENGTHS, device), AttentionOptions(**options))
    outer = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    gradients = torch.autograd.grad(found, inputs, outer)

    copies = [one.detach().cpu().float().requires_grad_() for one in inputs]
    expected = packed_by_hand(*copies, LENGTHS, **options)
    torch.testing.assert_close(found.cpu().float(), expected, rtol=0, atol=LARGEST_ERROR[dtype])
    by_hand = torch.autograd.grad(expected, copies, outer.cpu().float())
    for one, other in zip(gradients, by_hand, strict=True):
        torch.testing.assert_close(one.cpu().float(), other, rtol=0, atol=LARGEST_ERROR[dtype])


@pytest.mark.parametrize("head_dim", [5, 64, 256])
def test_attention_of_other_head_sizes_is_that_by_hand(head_dim, device):
    inputs = random_heads(LENGTHS, device, torch.float16, head_dim=head_dim)

    found = flash_attention(*inputs, batch_of(LENGTHS, device), AttentionOptions(**PLAIN))

    copies = [one.detach().cpu().float() for one in inputs]
    expected = packed_by_hand(*copies, LENGTHS, **PLAIN | {"scaling": head_dim**-0.5})
    torch.testing.assert_close(found.cpu().float(), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_texts_without_tokens_change_nothing(dropout, device):
    inputs = random_heads(LENGTHS, device, torch.bfloat16)
    batch, with_empty = batch_of(LENGTHS, device), batch_of((*LENGTHS, 0, 0, 0), device)
    outer = torch.ones_like(inputs[0])

    def results(batch):
        torch.cuda.manual_seed(0)
        output = flash_attention(*inputs, batch, AttentionOptions(dropout=dropout, **PLAIN))
        return [output, *torch.autograd.grad(output, inputs, outer)]

    for found, expected in zip(results(with_empty), results(batch), strict=True):
        torch.testing.assert_close(found, expected)


def test_dropout_keeps_the_mean(device):
    """The scores are scaled down, so that no weight dominates and the mean converges fast."""
    inputs = random_heads((40,), device, torch.float16)
    batch = batch_of((40,), device)
    even = PLAIN | {"scaling": 0.05}
    torch.cuda.manual_seed(0)

    dropping = AttentionOptions(dropout=0.3, **even)
    draws = [flash_attention(*inputs, batch, dropping).detach().float() for _ in range(2000)]

    kept = flash_attention(*inputs, batch, AttentionOptions(**even)).detach().float()
    assert (draws[0] - kept).abs().max() > 0.1
    torch.testing.assert_close(torch.stack(draws).mean(dim=0), kept, rtol=0, atol=0.02)


def test_dropout_is_drawn_again_in_each_call_and_repeats_after_the_random_state_is_restored(device):
    inputs = random_heads(LENGTHS, device, torch.bfloat16)
    batch = batch_of(LENGTHS, device)

    state = torch.cuda.get_rng_state()
    first = flash_attention(*inputs, batch, AttentionOptions(dropout=0.5, **PLAIN))
    second = flash_attention(*inputs, batch, AttentionOptions(dropout=0.5, **PLAIN))
    torch.cuda.set_rng_state(state)
    with torch.no_grad():  # the first pass of cached embeddings
        again = flash_attention(*inputs, batch, AttentionOptions(dropout=0.5, **PLAIN))

    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_the_gradient_has_the_dropout_of_its_output(device):
    """The output is linear in the values: its product with any weights is that of values and gradient."""
    query, key, value = random_heads(LENGTHS, device, torch.float16)
    torch.cuda.manual_seed(0)
    output = flash_attention(
        query, key, value, batch_of(LENGTHS, device), AttentionOptions(dropout=0.5, **PLAIN)
    )
    outer = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(device, torch.float16)

    (gradient,) = torch.autograd.grad(output, value, outer)

    found, expected = (value.float() * gradient.float()).sum(), (output.float() * outer.float()).sum()
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.1)


def test_a_captured_graph_draws_dropout_again_in_each_replay(device):
    inputs = [one.detach() for one in random_heads(LENGTHS, device, torch.bfloat16)]
    batch = batch_of(LENGTHS, device)
    graph, output = captured(lambda: flash_attention(*inputs, batch, AttentionOptions(dropout=0.5, **PLAIN)))

    torch.cuda.manual_seed(0)
    graph.replay()
    first = output.clone()
    graph.replay()
    second = output.clone()
    torch.cuda.manual_seed(0)
    graph.replay()

    assert not torch.equal(first, second)
    assert torch.equal(first, output)


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [("bert", torch.float16), ("qwen3", torch.bfloat16)],
    ids=str,
)
def test_packed_texts_give_the_adapter_gradients_of_padded_ones(
    architecture, dtype, device, tiny_model, shift_weights
):
    tower = tower_without_dropout(tiny_model(architecture), adapter=True)
    shift_weights(tower, seed=1)
    tower = tower.to(device).train()
    padded = [batch.to(device) for batch in padded_batches(tower.backbone)]

    with torch.autocast("cuda", dtype=dtype):
        found = gradients(tower, [pack(random_texts(), ROWS).to(device)])
        expected = gradients(tower, padded)

    assert found.keys() == expected.keys()
    difference, size = (
        torch.cat([one.flatten() for one in ones]).norm()
        for ones in ([found[name] - expected[name] for name in found], expected.values())
    )
    assert size > 0.1
    assert difference / size < {torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "mpnet"])
def test_packed_embeddings_are_close_to_padded_ones(architecture, device, tiny_model):
    tower = tower_without_dropout(tiny_model(architecture)).to(device).eval()
    padded = [batch.to(device) for batch in padded_batches(tower.backbone)]
    assert tower.why_padded(torch.bfloat16, max_length=POSITIONS) is None
    assert tower.why_padded(torch.float32, max_length=POSITIONS) == NEEDS_HALF_PRECISION

    with autocast(device, "bf16"), torch.no_grad():
        found = tower([pack(random_texts(), ROWS).to(device)])
        expected = tower(padded)

    assert (found * expected).sum(dim=1).min() > 0.995
