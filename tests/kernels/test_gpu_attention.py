"""The choice of the attention of a batch on a GPU; the kernels themselves are tested in tests/gpu."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from aisle.kernels import gpu_attention as choice
from aisle.kernels.flash_attention import AttentionOptions
from aisle.text.token_batches import PackedBatch

PLAIN = AttentionOptions()


def batch_of(*lengths):
    tokens = torch.zeros(sum(lengths), dtype=torch.long)
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    runs = tuple((1, length) for length in lengths)
    return PackedBatch(tokens, tokens, offsets, runs, longest=max(lengths), texts=len(lengths))


def heads_of(lengths, *, heads=2, head_dim=64):
    return torch.zeros(sum(lengths), heads, head_dim, dtype=torch.bfloat16)


@pytest.fixture
def computed(monkeypatch):
    """The name of the attention that was computed, and what it was given."""
    calls = []
    kernel = ModuleType("aisle.kernels.short_attention")

    def note(name):
        return lambda *given, **options: calls.append((name, options or given[-1])) or given[0]

    kernel.short_attention = note("short")
    monkeypatch.setitem(sys.modules, kernel.__name__, kernel)
    monkeypatch.setattr(choice, "flash_attention", note("flash"))
    monkeypatch.setattr(choice, "why_no_triton", lambda *_: None)
    monkeypatch.setattr(choice, "_longest_on", lambda _: 128)
    return calls


def test_short_texts_have_a_kernel_of_their_own(computed):
    query = heads_of((128, 0, 7))

    choice.gpu_attention(query, query, query, batch_of(128, 0, 7), PLAIN)

    assert computed == [("short", {"longest": 128, "scaling": 0.125, "causal": False, "dropout": 0.0})]


@pytest.mark.parametrize(
    ("lengths", "key_heads", "head_dim", "options"),
    [
        ((129, 7), 2, 64, {}),
        ((7,), 1, 64, {}),
        ((7,), 2, 96, {}),
        ((7,), 2, 64, {"window": 3}),
        ((7,), 2, 64, {"dropout": 1.0}),
    ],
    ids=["long text", "shared key heads", "wide heads", "window", "everything dropped"],
)
def test_flash_attention_computes_what_the_kernel_does_not(lengths, key_heads, head_dim, options, computed):
    query = heads_of(lengths, head_dim=head_dim)
    key = heads_of(lengths, heads=key_heads, head_dim=head_dim)

    choice.gpu_attention(query, key, key, batch_of(*lengths), replace(PLAIN, **options))

    assert computed == [("flash", replace(PLAIN, **options))]


def test_a_gpu_with_little_shared_memory_computes_shorter_texts(computed, monkeypatch):
    monkeypatch.setattr(choice, "_longest_on", lambda _: 64)
    for length in (64, 65):
        query = heads_of((length,))
        choice.gpu_attention(query, query, query, batch_of(length), PLAIN)

    assert [name for name, _ in computed] == ["short", "flash"]


@pytest.mark.parametrize("switch", ["constant", "triton"])
def test_flash_attention_computes_all_texts_without_the_kernel(switch, computed, monkeypatch):
    if switch == "constant":
        monkeypatch.setattr(choice, "LONGEST_SHORT_TEXT", 0)
    else:
        monkeypatch.setattr(choice, "why_no_triton", lambda *_: "Triton is not installed")
    query = heads_of((7,))

    choice.gpu_attention(query, query, query, batch_of(7), PLAIN)

    assert computed == [("flash", PLAIN)]
