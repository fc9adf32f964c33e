"""Flash Attention within each text of a packed batch: for GPUs, in half precision.

torch's operator computes it; the public function over it, `varlen_attn`, has no dropout. If torch was built
without the operator, the package flash-attn computes it. (https://arxiv.org/abs/2307.08691)
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from aisle.text.token_batches import PackedBatch

OLDEST_CAPABILITY = (8, 0)
"""Compute capability of Ampere: the kernels run on it and on later GPUs."""
LARGEST_HEAD = 256
HEAD_MULTIPLE = 8
"""The size of a head must be a multiple of it; other heads are padded with zeros."""
OPERATOR_ARGUMENTS = frozenset(
    {
        *("query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k"),
        *("dropout_p", "is_causal", "return_debug_mask"),
        *("scale", "window_size_left", "window_size_right"),
    }
)
PACKAGE_ARGUMENTS = frozenset({"dropout_p", "softmax_scale", "causal", "window_size"})
NOT_INSTALLED = "this version of torch has no Flash Attention; install the package flash-attn"

Kernel = Callable[..., torch.Tensor]


class UnsupportedAttentionError(ValueError):
    """The attention over packed texts lacks something that a layer needs; the model reads padded texts."""


@dataclass(frozen=True)
class AttentionOptions:
    """Options of an attention layer.

    Args:
        scaling: Factor of the scores; 1 / sqrt(head_dim) if None.
        dropout: Dropout rate of the attention weights.
        causal: Whether a token attends only to itself and earlier tokens.
        window: Number of tokens that a token attends to on either side, counting itself; all if None.
    """

    scaling: float | None = None
    dropout: float = 0.0
    causal: bool = False
    window: int | None = None

    def scale(self, head_dim: int) -> float:
        """Return the factor of the scores for heads of a size."""
        return head_dim**-0.5 if self.scaling is None else self.scaling

    @property
    def sides(self) -> tuple[int, int]:
        """Numbers of tokens that a token attends to before and after it; -1 means all."""
        side = -1 if self.window is None else self.window - 1
        return side, 0 if self.causal else side


def flash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedBatch,
    options: AttentionOptions,
) -> torch.Tensor:
    """Return attention within each text of a packed batch: (tokens, heads, head_dim), in half precision.

    Dropout draws from torch's generator of the GPU, also in a CUDA graph. Texts may have no tokens.

    Args:
        query: (tokens, heads, head_dim) float16 or bfloat16, on a GPU.
        key: (tokens, key heads, head_dim); several query heads may share a key head.
        value: Like `key`.
        packed: The batch.
        options: Options of the layer.

    Raises:
        UnsupportedAttentionError: The heads are too large, or neither torch nor a package has the kernels.
    """
    kernel, head_dim = _kernel(), query.shape[2]
    if kernel is None:
        raise UnsupportedAttentionError(NOT_INSTALLED)
    if head_dim > LARGEST_HEAD:
        raise UnsupportedAttentionError(
            f"the model's heads have {head_dim} numbers, and Flash Attention computes at most {LARGEST_HEAD}"
        )
    surplus = -head_dim % HEAD_MULTIPLE
    if surplus:
        query, key, value = (nn.functional.pad(one, (0, surplus)) for one in (query, key, value))
    options = replace(options, scaling=options.scale(head_dim))
    attended = kernel(query, key, value, packed, options)
    return attended[:, :, :head_dim] if surplus else attended


def why_no_flash_attention(capability: tuple[int, int]) -> str | None:
    """Return why Flash Attention cannot be computed on a GPU; None if it can.

    Args:
        capability: Compute capability of the GPU.
    """
    if capability < OLDEST_CAPABILITY:
        found, needed = (".".join(map(str, version)) for version in (capability, OLDEST_CAPABILITY))
        return f"the GPU's compute capability is {found}, and Flash Attention needs {needed} or later"
    return NOT_INSTALLED if _kernel() is None else None


@cache
def _kernel() -> Kernel | None:
    """Return the function that computes Flash Attention here, or None."""
    operator: Any = getattr(torch.ops.aten, "_flash_attention_forward", None)
    if torch.backends.cuda.is_flash_attention_available() and takes_our_arguments(operator):
        return attend_by_operator
    return attend_by_package if _package_function() is not None else None


def takes_our_arguments(operator: Any) -> bool:
    """Return whether an operator of torch has the arguments of `attend_by_operator`, and needs no others."""
    arguments = operator.default._schema.arguments if hasattr(operator, "default") else []
    needed = {argument.name for argument in arguments if not argument.has_default_value()}
    return needed <= OPERATOR_ARGUMENTS <= {argument.name for argument in arguments}


def attend_by_operator(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedBatch,
    options: AttentionOptions,
) -> torch.Tensor:
    """Return the attention of torch's operator, which has a gradient; see `flash_attention`."""
    before, after = options.sides
    operator: Any = torch.ops.aten._flash_attention_forward.default
    outputs: tuple[torch.Tensor, ...] = operator(
        query=query,
        key=key,
        value=value,
        cum_seq_q=packed.offsets,
        cum_seq_k=packed.offsets,
        max_q=packed.longest,
        max_k=packed.longest,
        dropout_p=options.dropout,
        is_causal=options.causal,
        return_debug_mask=False,
        scale=options.scale(query.shape[2]),
        window_size_left=before,
        window_size_right=after,
    )
    return outputs[0]


def attend_by_package(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedBatch,
    options: AttentionOptions,
) -> torch.Tensor:
    """Return the attention of the package flash-attn; see `attend_by_operator`."""
    attend: Any = _package_function()
    attended: torch.Tensor = attend(
        query,
        key,
        value,
        packed.offsets,
        packed.offsets,
        packed.longest,
        packed.longest,
        dropout_p=options.dropout,
        softmax_scale=options.scale(query.shape[2]),
        causal=options.causal,
        window_size=options.sides,
    )
    return attended


@cache
def _package_function() -> Callable[..., torch.Tensor] | None:
    try:
        function: Any = importlib.import_module("flash_attn").flash_attn_varlen_func
    except (ImportError, AttributeError):
        return None
    return function if inspect.signature(function).parameters.keys() >= PACKAGE_ARGUMENTS else None
