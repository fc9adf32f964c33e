"""A backbone, its pooling and the normalisation, as one module."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from aisle.kernels.packed_attention import can_pack, first_position, read_packed
from aisle.models.pooling import Pooling, pool, pool_packed
from aisle.text.token_batches import PackedBatch, TokenBatch
from aisle.types.encoder_protocol import Precision

CHANGING_ROPE = frozenset({"dynamic", "longrope"})
"""Rotary positions whose frequencies transformers changes in place, by the longest text of a batch."""


class Tower(nn.Module):
    """Token batches in, embeddings out: what is trained, and what an encoder runs.

    Args:
        backbone: any `AutoModel`, with or without an adapter.
        pooling: how token vectors become one.
        normalize: whether embeddings have unit L2 norm.
    """

    def __init__(self, backbone: nn.Module, *, pooling: Pooling, normalize: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling: Pooling = pooling
        self.normalize = normalize
        # What Accelerate's FSDP looks for to shard layer by layer.
        self._no_split_modules = getattr(backbone, "_no_split_modules", None)
        self._first_position = first_position(backbone)
        self.changes_itself = _changes_itself(backbone)
        config: Any = backbone.config
        if getattr(config, "use_cache", False):
            config.use_cache = False  # decoders would keep the keys and values of every text

    def forward(self, batches: Sequence[TokenBatch]) -> torch.Tensor:
        """Return the embeddings of all texts of all batches, in order: (texts, dim) float32.

        One forward takes several batches so that distributed wrappers see one forward a step.
        """
        return torch.cat([self._embed(batch) for batch in batches])

    def packs(self, precision: Precision, *, max_length: int) -> bool:
        """Return whether packed texts can be read, and are read fast, on the device the model is on.

        On a GPU that takes half precision, which Flash Attention needs.
        """
        device = next(self.parameters()).device
        if device.type != "cpu" and (device.type != "cuda" or precision == "fp32"):
            return False
        with autocast(device, precision):
            return can_pack(self.backbone, max_length=max_length)

    def _embed(self, batch: TokenBatch) -> torch.Tensor:
        if isinstance(batch, PackedBatch):
            vectors = read_packed(self.backbone, batch, first_position=self._first_position)
            embeddings = pool_packed(vectors, batch.offsets, self.pooling)
        else:
            output = self.backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            embeddings = pool(output.last_hidden_state, batch.attention_mask, self.pooling)
        return nn.functional.normalize(embeddings, dim=1) if self.normalize else embeddings


def _changes_itself(backbone: nn.Module) -> bool:
    """Return whether a forward pass may leave something behind in a backbone: threads take turns then.

    Code from a repository may, and some rotary positions do.
    """
    for module in backbone.modules():
        kinds: Any = getattr(module, "rope_type", None)
        kinds = kinds.values() if isinstance(kinds, dict) else (kinds,)
        if type(module).__module__.startswith("transformers_modules") or not CHANGING_ROPE.isdisjoint(kinds):
            return True
    return False


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which the model computes in `precision`; int8 needs none, but its own layers."""
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
