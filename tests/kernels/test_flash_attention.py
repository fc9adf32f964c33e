"""Calls of Flash Attention; attention by hand replaces torch's operator and the package flash-attn."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import pytest
import torch

from aisle.kernels import flash_attention as flash
from aisle.kernels.flash_attention import (
    AttentionOptions,
    UnsupportedAttentionError,
    attend_by_operator,
    attend_by_package,
    flash_attention,
    takes_our_arguments,
    why_no_flash_attention,
)
from aisle.text.token_batches import pack
from aisle.text.tokens import TokenizedTexts, offsets_of
from tests.attention_by_hand import CASES, packed_by_hand

LENGTHS = (4, 2, 1)
SCALING = 0.3


@pytest.fixture
def packed():
    tokens = TokenizedTexts(np.arange(sum(LENGTHS), dtype=np.int32), offsets_of(np.array(LENGTHS)))
    return pack(tokens, np.arange(len(LENGTHS)))


@pytest.fixture(autouse=True)
def choose_again():
    """Forget which kernel was chosen, before and after each test."""
    flash._kernel.cache_clear()
    flash._package_function.cache_clear()
    yield
    flash._kernel.cache_clear()
    flash._package_function.cache_clear()


def random_heads(*, key_heads, head_dim=8):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(sum(LENGTHS), 4, head_dim, generator=generator)
    key, value = torch.randn(2, sum(LENGTHS), key_heads, head_dim, generator=generator)
    return [one.requires_grad_() for one in (query, key, value)]


def as_computed(query, key, value, offsets, *, scale, before, after):
    """Return attention by hand, for a window that is given as torch's operator takes it."""
    lengths = (offsets[1:] - offsets[:-1]).tolist()
    causal = after == 0
    window = None if before == -1 else before + 1
    assert after in (-1, 0) if window is None else after in (0, before)
    return packed_by_hand(query, key, value, lengths, scaling=scale, causal=causal, window=window)


def forward(
    query,
    key,
    value,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    return_debug_mask,
    *,
    scale=None,
    window_size_left=None,
    window_size_right=None,
    **others,
):
    """The operator's forward pass on CPU."""
    assert cum_seq_q is cum_seq_k or torch.equal(cum_seq_q, cum_seq_k)
    assert cum_seq_q.dtype == torch.int32
    assert max_q == max_k == max(LENGTHS)
    assert not return_debug_mask
    assert is_causal == (window_size_right == 0) or window_size_left == 0
    output = as_computed(
        query, key, value, cum_seq_q, scale=scale, before=window_size_left, after=window_size_right
    )
    return (
        output,
        query.new_zeros(query.shape[1], len(query)),
        query.new_tensor([dropout_p]),
        query.new_zeros(()),
        query,
    )


def backward(grad, query, key, value, out, logsumexp, offsets, *others, **options):
    """The operator's backward pass on CPU."""

    def by_autograd():
        inputs = [one.detach().requires_grad_() for one in (query, key, value)]
        output = as_computed(
            *inputs,
            offsets,
            scale=options["scale"],
            before=options["window_size_left"],
            after=options["window_size_right"],
        )
        return torch.autograd.grad(output, inputs, grad)

    # In this thread, autograd is off: the operator is called from within it.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(by_autograd).result()


@contextmanager
def operator_on_cpu():
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", forward, "CPU")
        library.impl("_flash_attention_backward", backward, "CPU")
        yield


@pytest.fixture
def operator(monkeypatch):
    """torch's operator on CPU, as if this torch was built with it."""
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    with operator_on_cpu():
        yield


@pytest.fixture
def package(monkeypatch):
    """The package flash-attn, with attention by hand; returns the dropout rates of its calls."""
    rates = []

    def flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
    ):
        assert max_seqlen_q == max_seqlen_k == max(LENGTHS)
        assert causal == (window_size[1] == 0) or window_size[0] == 0
        rates.append(dropout_p)
        before, after = window_size
        return as_computed(q, k, v, cu_seqlens_q, scale=softmax_scale, before=before, after=after)

    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    return rates


@pytest.mark.parametrize("kernel", ["operator", "package"])
@pytest.mark.parametrize(("key_heads", "causal", "window"), CASES)
def test_attention_and_its_gradient_are_those_by_hand(kernel, key_heads, causal, window, packed, request):
    request.getfixturevalue(kernel)
    query, key, value = random_heads(key_heads=key_heads)

    options = {"scaling": SCALING, "causal": causal, "window": window}

    found = flash_attention(query, key, value, packed, AttentionOptions(**options))

    expected = packed_by_hand(query, key, value, LENGTHS, **options)
    torch.testing.assert_close(found, expected)
    outer = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(found, (query, key, value), outer)
    for one, other in zip(gradients, torch.autograd.grad(expected, (query, key, value), outer), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("head_dim", [5, 12])
def test_heads_of_other_sizes_are_padded_and_keep_their_scale(head_dim, operator, packed):
    query, key, value = random_heads(key_heads=2, head_dim=head_dim)

    found = flash_attention(query, key, value, packed, AttentionOptions())

    expected = packed_by_hand(query, key, value, LENGTHS, scaling=head_dim**-0.5, causal=False, window=None)
    torch.testing.assert_close(found, expected)


def test_the_dropout_rate_reaches_the_operator(packed, monkeypatch, operator):
    query, key, value = random_heads(key_heads=4)
    rates = []
    computed = torch.ops.aten._flash_attention_forward.default

    def recorded(**arguments):
        rates.append(arguments["dropout_p"])
        return computed(**arguments)

    monkeypatch.setattr(torch.ops.aten._flash_attention_forward, "default", recorded)
    attend_by_operator(query, key, value, packed, AttentionOptions(SCALING, dropout=0.25))

    assert rates == [0.25]


def test_the_dropout_rate_reaches_the_package(packed, package):
    query, key, value = random_heads(key_heads=4)

    flash_attention(query, key, value, packed, AttentionOptions(dropout=0.25))

    assert package == [0.25]


def test_torchs_operator_takes_our_arguments():
    assert takes_our_arguments(torch.ops.aten._flash_attention_forward)


SCHEMA = "aten::_flash_attention_forward({}) -> Tensor"
KNOWN = (
    "Tensor query, Tensor key, Tensor value, Tensor? cum_seq_q, Tensor? cum_seq_k, "
    "SymInt max_q, SymInt max_k, float dropout_p, bool is_causal, bool return_debug_mask, "
    "*, float? scale=None"
)
WINDOW = "SymInt? window_size_left=None, SymInt? window_size_right=None"


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        (f"{KNOWN}, {WINDOW}", True),
        (f"{KNOWN}, {WINDOW}, Tensor? seqused_k=None", True),
        (KNOWN, False),
        (f"{KNOWN}, {WINDOW}, Tensor seqused_k", False),
    ],
)
def test_an_operator_is_called_only_if_it_takes_our_arguments(arguments, taken):
    class Operator:
        class default:  # noqa: N801 - torch's name
            _schema = torch._C.parse_schema(SCHEMA.format(arguments))

    assert takes_our_arguments(Operator) == taken


def test_a_torch_without_the_operator_does_not_call_it():
    assert not takes_our_arguments(None)


def test_the_package_is_used_only_where_torch_has_no_kernels(package, monkeypatch):
    assert flash._kernel() is attend_by_package

    flash._kernel.cache_clear()
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    assert flash._kernel() is attend_by_operator


def test_an_old_package_without_windows_is_not_used(package, monkeypatch):
    monkeypatch.setattr(sys.modules["flash_attn"], "flash_attn_varlen_func", lambda q, k, v, dropout_p: q)

    assert "install the package flash-attn" in why_no_flash_attention((9, 0))


def test_a_gpu_before_ampere_is_named(operator):
    assert why_no_flash_attention((7, 5)) == (
        "the GPU's compute capability is 7.5, and Flash Attention needs 8.0 or later"
    )
    assert why_no_flash_attention((8, 0)) is None
    assert why_no_flash_attention((12, 0)) is None


def test_attention_without_kernels_is_refused(packed, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    monkeypatch.setitem(sys.modules, "flash_attn", None)

    with pytest.raises(UnsupportedAttentionError, match="install the package flash-attn"):
        flash_attention(*random_heads(key_heads=4), packed, AttentionOptions())


def test_large_heads_are_refused(packed, operator):
    with pytest.raises(UnsupportedAttentionError, match="heads have 264 numbers"):
        flash_attention(*random_heads(key_heads=4, head_dim=264), packed, AttentionOptions())
