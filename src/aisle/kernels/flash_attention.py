"""Flash Attention over packed texts on a GPU, with the parameters that the installed torch has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import torch

from aisle.text.token_batches import PackedBatch


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedBatch,
    scaling: float | None,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    """Return attention within each text of a packed batch: (tokens, heads, head_dim), in half precision.

    Args:
        query: (tokens, heads, head_dim).
        key: (tokens, key heads, head_dim); several query heads may share a key head.
        value: Like `key`.
        packed: The batch.
        scaling: Factor of the scores; 1 / sqrt(head_dim) if None.
        causal: Whether a token attends only to itself and earlier tokens.
        window: Number of tokens that a token attends to on either side, counting itself; all if None.

    Raises:
        ValueError: The installed torch lacks a parameter that the layer needs.
    """
    from torch.nn.attention import varlen

    options = varlen_options(
        _parameters_of(varlen.varlen_attn),
        scaling=scaling,
        causal=causal,
        window=window,
        grouped=key.shape[1] != query.shape[1],
    )
    if key.shape[1] != query.shape[1] and "enable_gqa" not in options:
        key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], dim=1) for one in (key, value))
    attend: Any = varlen.varlen_attn
    attended: torch.Tensor = attend(
        query, key, value, packed.offsets, packed.offsets, packed.longest, packed.longest, **options
    )
    return attended


@cache
def _parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def varlen_options(
    parameters: Collection[str],
    *,
    scaling: float | None,
    causal: bool,
    window: int | None,
    grouped: bool,
) -> dict[str, Any]:
    """Return the keyword arguments for torch's attention over variable lengths.

    They differ between versions of torch: 2.13 has `window_size` and `enable_gqa`, earlier versions have
    `is_causal` and fewer of the others.

    Args:
        parameters: Names of the parameters of torch's function.
        scaling: Factor of the scores; None means torch's default.
        causal: Whether a token attends only to itself and earlier tokens.
        window: Number of tokens that a token attends to on either side, counting itself; all if None.
        grouped: Whether several query heads share a key head.

    Raises:
        ValueError: The layer needs a window or a factor of the scores, and the installed torch lacks it.
    """
    options: dict[str, Any] = {}
    if "window_size" in parameters:
        side = -1 if window is None else window - 1
        options["window_size"] = (side, 0 if causal else side)
    elif window is not None:
        raise ValueError("this version of torch has no sliding window over packed texts")
    else:
        options["is_causal"] = causal
    if "scale" in parameters:
        options["scale"] = scaling
    elif scaling is not None:
        raise ValueError("this version of torch has no scale of the scores over packed texts")
    if "enable_gqa" in parameters:
        options["enable_gqa"] = grouped
    return options
