"""Attention over packed texts: each token attends to the tokens of its own text, without padding.

It plugs into transformers' attention interface (https://huggingface.co/docs/transformers/attention_interface),
so it works with every architecture that uses the interface; `packing_check` finds out which do. A backbone is
switched to `dispatched_attention` permanently. The arguments of each call show whether its batch is packed,
so threads can share a backbone.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from aisle.kernels.flash_attention import AttentionOptions, UnsupportedAttentionError
from aisle.kernels.gpu_attention import gpu_attention
from aisle.kernels.grouped_attention import LONGEST, GroupedAttention
from aisle.text.token_batches import PackedBatch

Module = TypeVar("Module", bound=nn.Module)

ATTENTION = "aisle_attention"
NATIVE = "sdpa"
"""Attention for padded batches. A backbone with any other attention cannot read packed texts."""


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

    On CPU, texts of equal length are computed together. On a GPU in half precision, `gpu_attention`
    computes all texts together.

    Args:
        module: The attention layer.
        query: (1, heads, tokens, head_dim).
        key: (1, key heads, tokens, head_dim); several query heads may share a key head.
        value: Like `key`.
        attention_mask: None; `packed` has the boundaries of the texts.
        packed: The batch.
        scaling: Factor of the scores; 1 / sqrt(head_dim) if None.
        dropout: Dropout rate of the attention weights.
        is_causal: Whether a token attends only to itself and earlier tokens; the layer's `is_causal` if None.
        sliding_window: Number of tokens that a token attends to on either side, counting itself; all if None.
        softcap: Limit on the scores, as in Gemma 2; not supported.
        s_aux: Attention sinks; not supported.

    Raises:
        UnsupportedAttentionError: The layer uses a softcap, sinks or heads that are too large for Flash
            Attention, or its queries and keys are not those of the batch's tokens.
    """
    if softcap is not None or s_aux is not None:
        raise UnsupportedAttentionError("packed attention supports neither a softcap nor sinks")
    tokens = len(packed.input_ids)
    if any(one.dim() != 4 or (one.shape[0], one.shape[2]) != (1, tokens) for one in (query, key, value)):
        raise UnsupportedAttentionError("the queries and keys are not those of the packed tokens")
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    # Not `one[0]`: its gradient is copied into zeros, and so loses its place beside those of the others.
    query, key, value = (one.squeeze(0).transpose(0, 1) for one in (query, key, value))
    if torch.is_autocast_enabled(query.device.type):
        # Rotary positions leave queries and keys in float32. Autocast would cast them for torch's attention.
        half = torch.get_autocast_dtype(query.device.type)
        query, key, value = (one.to(half) for one in (query, key, value))
    options = AttentionOptions(scaling, dropout, causal, sliding_window)
    if query.device.type == "cuda" and query.dtype != torch.float32:
        return gpu_attention(query, key, value, packed, options)[None], None
    heads = query.shape[1]
    if key.shape[1] != heads:
        key, value = (one.repeat_interleave(heads // one.shape[1], dim=1) for one in (key, value))
    # With dropout, also without gradients: both passes of cached embeddings need the same random numbers.
    trains = dropout > 0 or (torch.is_grad_enabled() and (query.requires_grad or value.requires_grad))
    on_cpu = query.device.type == "cpu"
    if trains and on_cpu and not causal and sliding_window is None and packed.longest <= LONGEST:
        fused: Any = GroupedAttention.apply
        return fused(query, key, value, packed.runs, options.scale(query.shape[2]), dropout)[None], None
    sizes = [texts * length for texts, length in packed.runs]
    # Use split rather than slices: the gradient of a slice is as large as the whole tensor.
    runs = [
        _attend_run(run, *parts, options=options)
        for run, *parts in zip(
            packed.runs, *(torch.split(one, sizes) for one in (query, key, value)), strict=True
        )
    ]
    return torch.cat(runs)[None], None


def _attend_run(
    run: tuple[int, int],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    options: AttentionOptions,
) -> torch.Tensor:
    texts, length = run
    causal, window = options.causal, options.window
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
        dropout_p=options.dropout,
        is_causal=causal and mask is None and length > 1,
        scale=options.scaling,
    )
    return attended.transpose(1, 2).reshape(texts * length, *attended.shape[1::2])


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
        module: The attention layer.
        arguments: Query, key, value and mask.
        packed: The batch if it is packed, passed through the backbone's forward as a keyword.
        attended: List for `why_padded`: every call appends an entry, which is True once the call succeeds.
        options: Options of the layer.
    """
    if packed is None:
        native: tuple[torch.Tensor, None] = _NATIVE_ATTENTION(module, *arguments, **options)
        return native
    if attended is not None:
        attended.append(False)
    # Exclude it from torch.compile, which would compile it again for every combination of lengths.
    attend = _packed_attention_uncompiled if torch.compiler.is_compiling() else packed_attention
    found: tuple[torch.Tensor, None] = attend(module, *arguments, packed=packed, **options)
    if attended is not None:
        attended[-1] = True
    return found


AttentionInterface.register(ATTENTION, dispatched_attention)
_masks: Any = AttentionMaskInterface
AttentionMaskInterface.register(ATTENTION, _masks()[NATIVE])


def read_packed(
    backbone: Any, batch: PackedBatch, *, padding_position: int | None, **options: Any
) -> torch.Tensor:
    """Return the token vectors of a packed batch: (tokens, dim); `options` are passed to the attention."""
    dispatch_attention(backbone)
    if batch.types is not None:
        options["token_type_ids"] = batch.types[None]
    output = backbone(
        input_ids=batch.input_ids[None],
        # transformers leaves a mask of four dimensions as it is, and builds no mask of tokens x tokens.
        attention_mask=batch.input_ids.new_zeros(1, 1, 1, 1),
        position_ids=position_ids(batch, padding_position)[None],
        packed=batch,
        **options,
    )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


def dispatch_attention(backbone: Any) -> None:
    """Switch a backbone from torch's attention to `dispatched_attention`, permanently.

    Padded batches are computed as before, so passes in other threads can continue.
    """
    if backbone.config._attn_implementation != ATTENTION:
        backbone.config._attn_implementation = ATTENTION


def shared_copy(module: Module) -> Module:
    """Return a copy of a module that shares its weights, with separate hooks and settings."""
    memo: dict[int, Any] = {id(one): one for one in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, memo)


def padding_position(backbone: nn.Module) -> int | None:
    """Return the position of padding tokens, from which RoBERTa's family counts; None for other backbones."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.padding_idx
    return None


def position_ids(batch: PackedBatch, padding_position: int | None) -> torch.Tensor:
    """Return the position that a backbone gives each token of a packed batch: (tokens,) int64.

    RoBERTa's family counts a text's tokens from the padding index + 1 and leaves out padding tokens, which
    have the padding index itself. A text has them if it contains `<pad>` as a word.
    """
    if padding_position is None:
        return batch.positions
    counted = (batch.input_ids != padding_position).long()
    before = counted.cumsum(0) - counted
    starts = torch.arange(len(before), device=before.device) - batch.positions
    return padding_position + counted * (before - before[starts] + 1)
