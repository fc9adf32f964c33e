"""Attention over packed texts: each token sees the tokens of its own text, and nothing is padded.

It plugs into transformers' attention interface (https://huggingface.co/docs/transformers/attention_interface),
so it serves every architecture that uses it. Which do is tried out, not listed: `can_pack` compares.
A backbone is switched to `dispatched_attention` once and for good: each call reads from its own arguments
whether its batch is packed, so that threads can share a backbone.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from aisle.kernels.grouped_attention import LONGEST, GroupedAttention
from aisle.text.token_batches import PackedBatch, PaddedBatch, pack, pad
from aisle.text.tokens import TokenizedTexts

Module = TypeVar("Module", bound=nn.Module)

ATTENTION = "aisle_attention"
NATIVE = "sdpa"
"""The attention of padded batches; a backbone that has another one reads no packed texts."""
PROBED_LENGTHS = (1, 3, 3, 7)
MOST_PROBED_TOKENS = 512
LARGEST_ERROR = 1e-3
LARGEST_ERROR_IN_HALF_PRECISION = 0.1
"""Of any token vector, relative to its length. Rounding stays far below: 4e-6, and 0.013 in bf16."""


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: PackedBatch,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention within each text of a packed batch: (1, tokens, heads, head_dim).

    On CPU the texts of one length are attended to together; on a GPU all texts are, by Flash Attention
    (https://arxiv.org/abs/2205.14135) over variable lengths, which needs half precision.

    Args:
        module: the attention layer.
        query: (1, heads, tokens, head_dim).
        key: (1, key heads, tokens, head_dim); several query heads may share one.
        value: as `key`.
        attention_mask: None; the texts' bounds are in `packed`.
        packed: the batch.
        scaling: of the scores; 1 / sqrt(head_dim) when None.
        dropout: of the attention weights.
        is_causal: whether a token sees those before it only; the layer's own `is_causal` when None.
        sliding_window: how many tokens a token sees to either side, itself counted; all when None.
        softcap: a bound on the scores, as Gemma 2 has it; there is none here.
        s_aux: attention sinks; there are none here.

    Raises:
        ValueError: the layer asks for a bound on its scores or for sinks.
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("packed attention has neither a softcap nor sinks")
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    query, key, value = (one[0].transpose(0, 1) for one in (query, key, value))
    if torch.is_autocast_enabled(query.device.type):
        # Rotary positions leave queries and keys in float32; autocast would cast them for torch's attention.
        half = torch.get_autocast_dtype(query.device.type)
        query, key, value = (one.to(half) for one in (query, key, value))
    if query.device.type == "cuda" and query.dtype != torch.float32 and not dropout:
        return _varlen(query, key, value, packed, scaling, causal, sliding_window)[None], None
    heads = query.shape[1]
    if key.shape[1] != heads:
        key, value = (one.repeat_interleave(heads // one.shape[1], dim=1) for one in (key, value))
    # With dropout also without gradients: cached embeddings need the same draws in both passes.
    trains = dropout > 0 or (torch.is_grad_enabled() and (query.requires_grad or value.requires_grad))
    on_cpu = query.device.type == "cpu"
    if trains and on_cpu and not causal and sliding_window is None and packed.longest <= LONGEST:
        fused: Any = GroupedAttention.apply
        scale = query.shape[2] ** -0.5 if scaling is None else scaling
        return fused(query, key, value, packed.runs, scale, dropout)[None], None
    sizes = [texts * length for texts, length in packed.runs]
    # split, not slices: the gradient of a slice is as large as the whole.
    attended = [
        _attend_run(run, *parts, scaling=scaling, dropout=dropout, causal=causal, window=sliding_window)
        for run, *parts in zip(
            packed.runs, *(torch.split(one, sizes) for one in (query, key, value)), strict=True
        )
    ]
    return torch.cat(attended)[None], None


def _attend_run(
    run: tuple[int, int],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float | None,
    dropout: float,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    texts, length = run
    query, key, value = (
        one.reshape(texts, length, *one.shape[1:]).transpose(1, 2) for one in (query, key, value)
    )
    mask = None
    if window is not None and length > window:
        place = torch.arange(length, device=query.device)
        mask = (place[:, None] - place[None, :]).abs() < window
        if causal:
            mask = mask.tril()
    attended = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and mask is None and length > 1,
        scale=scaling,
    )
    return attended.transpose(1, 2).reshape(texts * length, *attended.shape[1::2])


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedBatch,
    scaling: float | None,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    side = -1 if window is None else window - 1
    attended: Any = varlen_attn(
        query,
        key,
        value,
        packed.offsets,
        packed.offsets,
        packed.longest,
        packed.longest,
        scale=scaling,
        window_size=(side, 0 if causal else side),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return cast(torch.Tensor, attended)


_uncompiled: Any = torch.compiler.disable
_packed_attention_uncompiled = _uncompiled(packed_attention)
_attentions: Any = AttentionInterface
_NATIVE_ATTENTION: Any = _attentions()[NATIVE]


def dispatched_attention(
    module: nn.Module,
    *arguments: Any,
    packed: PackedBatch | None = None,
    attended: list[bool] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of a batch, packed or padded; see `packed_attention`.

    Args:
        module: the attention layer.
        arguments: query, key, value and mask.
        packed: the batch, where it is packed; it comes through the backbone's forward as a keyword.
        attended: grows with every call; for `can_pack`.
        options: of the layer.
    """
    if attended is not None:
        attended.append(True)
    if packed is None:
        native: tuple[torch.Tensor, None] = _NATIVE_ATTENTION(module, *arguments, **options)
        return native
    # Compiled, it would be other code for every division of lengths.
    attend = _packed_attention_uncompiled if torch.compiler.is_compiling() else packed_attention
    found: tuple[torch.Tensor, None] = attend(module, *arguments, packed=packed, **options)
    return found


AttentionInterface.register(ATTENTION, dispatched_attention)
_masks: Any = AttentionMaskInterface
AttentionMaskInterface.register(ATTENTION, _masks()[NATIVE])


def read_packed(backbone: Any, batch: PackedBatch, *, first_position: int, **options: Any) -> torch.Tensor:
    """Return the token vectors of a packed batch: (tokens, dim); `options` reach the attention."""
    dispatch_attention(backbone)
    output = backbone(
        input_ids=batch.input_ids[None],
        # transformers leaves a mask of four dimensions as it is, and so builds none of tokens x tokens.
        attention_mask=batch.input_ids.new_zeros(1, 1, 1, 1),
        position_ids=batch.positions[None] + first_position,
        packed=batch,
        **options,
    )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


def dispatch_attention(backbone: Any) -> None:
    """Switch a backbone from torch's attention to `dispatched_attention`, for good.

    Padded batches are attended to as before, so that passes in other threads may go on meanwhile.
    """
    if backbone.config._attn_implementation != ATTENTION:
        backbone.config._attn_implementation = ATTENTION


def shared_copy(module: Module) -> Module:
    """Return a copy of a module that shares its weights; hooks and switches then concern the copy alone."""
    memo: dict[int, Any] = {id(one): one for one in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, memo)


def first_position(backbone: nn.Module) -> int:
    """Return the position of a text's first token: RoBERTa and its kin count from after the padding index."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def can_pack(backbone: nn.Module, *, max_length: int) -> bool:
    """Return whether a backbone gives the same token vectors for packed texts as for padded ones.

    It is asked on a few short texts and on some of `max_length` tokens, whose length would show a window,
    and which together have more tokens than there are positions.
    The architectures that do not (those with relative position biases, as MPNet) are padded.

    Args:
        backbone: on its device, in its compute type.
        max_length: the longest text that it will read.
    """
    config: Any = backbone.config
    device = next(backbone.parameters()).device
    positions = min(getattr(config, "max_position_embeddings", None) or 0, MOST_PROBED_TOKENS)
    long = [max_length] * (1 + positions // max_length)
    lengths = np.sort([*long, *(min(length, max_length) for length in PROBED_LENGTHS)])
    ids = np.random.default_rng(0).integers(5, max(config.vocab_size, 6), size=int(lengths.sum()))
    texts = TokenizedTexts(ids.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))
    rows = np.arange(len(lengths))
    if config._attn_implementation not in (NATIVE, ATTENTION):
        return False
    attended: list[bool] = []
    try:
        native, probed = shared_copy(backbone).eval(), shared_copy(backbone).eval()
        cast(Any, native.config)._attn_implementation = NATIVE
        dispatch_attention(probed)
        padded = pad(texts, rows, config.pad_token_id or 0).to(device)
        packed = pack(texts, rows).to(device)
        start = first_position(backbone)
        with torch.no_grad():
            expected = _read_padded(native, padded)
            found = read_packed(probed, packed, first_position=start, attended=attended)
            # Others may look at the attention's name, and read padded texts in another way by ours.
            again = _read_padded(probed, padded)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError):
        # An architecture may refuse positions, the batch, the attention or a copy in a way of its own.
        return False
    # Some architectures take the choice of attention and go on with their own.
    if not attended or found.shape != expected.shape:
        return False
    half = torch.is_autocast_enabled(device.type)
    largest = LARGEST_ERROR_IN_HALF_PRECISION if half else LARGEST_ERROR
    return all(_error(one, expected) <= largest for one in (found, again))


def _read_padded(backbone: Any, batch: PaddedBatch) -> torch.Tensor:
    """Return the vectors of the real tokens of a padded batch: (tokens, dim)."""
    output = backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    vectors: torch.Tensor = output.last_hidden_state[batch.attention_mask.bool()]
    return vectors


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error of a token vector, relative to its length."""
    return float(((found.float() - expected.float()).norm(dim=1) / expected.float().norm(dim=1)).max())
