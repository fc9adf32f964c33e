"""Attention of an exported graph: a single operator of ONNX Runtime, without a mask for padding.

It plugs into transformers' attention interface (https://huggingface.co/docs/transformers/attention_interface).
An architecture that does not use the interface is exported with its own attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.onnx.ops import symbolic
from transformers import AttentionInterface

ATTENTION = "aisle_onnx_attention"
OPERATOR = "com.microsoft::MultiHeadAttention"
"""https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md"""


def onnx_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    position_bias: torch.Tensor | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of texts of equal length: (texts, tokens, heads, head_dim).

    Args:
        module: The attention layer.
        query: (texts, heads, tokens, head_dim).
        key: (texts, key heads, tokens, head_dim); several query heads may share a key head.
        value: Like `key`.
        attention_mask: Numbers to add to the scores, (texts or 1, heads or 1, tokens, tokens), or booleans,
            True for tokens to attend to; None without.
        scaling: Factor of the scores; 1 / sqrt(head_dim) if None.
        is_causal: Whether a token attends only to itself and earlier tokens; the layer's `is_causal` if None.
        sliding_window: Number of tokens that a token attends to on either side, counting itself; all if None.
        position_bias: Numbers to add to the scores, such as T5's; None without.
        softcap: Limit on the scores, as in Gemma 2; not supported.
        s_aux: Attention sinks; not supported.

    Raises:
        NotImplementedError: The layer uses a softcap or sinks.
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("attention with a softcap or sinks")
    texts, heads, tokens, head_dim = query.shape
    if key.shape[1] != heads:
        key, value = (one.repeat_interleave(heads // one.shape[1], dim=1) for one in (key, value))
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    biases = [_added(attention_mask), _outside(sliding_window, tokens), position_bias]
    given = [bias for bias in biases if bias is not None]
    flat = [one.transpose(1, 2).reshape(texts, tokens, heads * one.shape[3]) for one in (query, key, value)]
    attended = symbolic(
        OPERATOR,
        [*flat, None, None, sum(given[1:], given[0]) if given else None],
        attrs={
            "num_heads": heads,
            "scale": float(head_dim**-0.5 if scaling is None else scaling),
            "unidirectional": int(causal and attention_mask is None),
        },
        dtype=torch.float32,
        shape=flat[2].shape,
        version=1,
    )
    return attended.view(texts, tokens, heads, -1), None


AttentionInterface.register(ATTENTION, onnx_attention)


def _added(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return a mask as numbers to add to the scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.finfo(torch.float32).min)


def _outside(window: int | None, tokens: int) -> torch.Tensor | None:
    """Return numbers to add to the scores that exclude tokens outside a window: (1, 1, tokens, tokens)."""
    if window is None:
        return None
    place = torch.arange(tokens)
    outside = (place[:, None] - place[None, :]).abs() >= window
    return torch.where(outside, torch.finfo(torch.float32).min, 0.0)[None, None]
