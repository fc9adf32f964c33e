"""Tower: modules that turn token batches into embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from aisle.kernels.flash_attention import why_no_flash_attention
from aisle.kernels.packed_attention import padding_position, read_packed
from aisle.kernels.packing_check import why_padded
from aisle.models.backbone import hidden_size, padding_token, positions, vocabulary_size
from aisle.models.heads import Head, Normalize, output_dim
from aisle.models.pooling import Pooling
from aisle.text.token_batches import EncodedBatch, PackedBatch, PaddedBatch, TokenBatch
from aisle.types.encoder_protocol import Precision

NEEDS_HALF_PRECISION = "Flash Attention needs half precision, and the model computes in float32"
CHANGING_ROPE = frozenset({"dynamic", "longrope"})
"""Kinds of rotary positions that transformers changes in place, depending on the batch's longest text."""


class Tower(nn.Module):
    """Turn token batches into embeddings: tokens -> backbone -> token vectors -> pooling -> heads.

    Training changes a tower, and an encoder runs it. On disk, sentence-transformers' modules.json lists its
    modules.

    Args:
        backbone: Any `AutoModel`, with or without an adapter.
        pooling: Pooling of a text's token vectors into one vector.
        heads: Modules after the pooling, in order: projections, normalisation.
        added: Heads to train on top of the model, after `heads`.
    """

    separate_sides = False
    """A tower by itself reads queries and products in the same batch."""

    def __init__(
        self, backbone: nn.Module, pooling: Pooling, heads: Iterable[Head] = (), added: Sequence[Head] = ()
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        modules: Any = nn.ModuleList([cast(nn.Module, head) for head in (*heads, *added)])
        self.heads = modules
        self.dim = output_dim(self.heads, hidden_size(backbone))
        """Number of components of an embedding."""
        # Accelerate's FSDP shards the layers of these classes one by one.
        self._no_split_modules = getattr(backbone, "_no_split_modules", None)
        self._padding_position = padding_position(backbone)
        self.changes_itself = changes_itself(backbone)
        self.compute_type: torch.dtype | None = None
        """Number type in which the backbone computes without autocast; `compute_in_half` sets it."""
        self._own_heads = len(modules) - len(added)
        self._used_heads = len(modules)
        self._frozen_heads: int | None = None
        config: Any = backbone.config
        if getattr(config, "use_cache", False):
            config.use_cache = False  # or decoders keep the keys and values of every text

    def freeze_encoder(self) -> None:
        """Freeze all but the added heads: no gradients, and evaluation mode also during training."""
        self._frozen_heads = self._own_heads
        for module in self._frozen_modules:
            module.requires_grad_(False)
        for head in self.heads[self._frozen_heads :]:
            if isinstance(head, Normalize):
                head.few_operations = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Tower:
        """Set the training mode of all modules, except a frozen encoder's, which stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules:
            module.eval()
        return self

    @property
    def _frozen_modules(self) -> list[nn.Module]:
        if self._frozen_heads is None:
            return []
        return [self.backbone, *self.heads[: self._frozen_heads]]

    @property
    def backbones(self) -> tuple[nn.Module, ...]:
        """The backbone in a tuple, like `BiEncoder.backbones`."""
        return (self.backbone,)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens with an embedding."""
        return vocabulary_size(self.backbone)

    def forward(self, batches: Sequence[TokenBatch]) -> torch.Tensor:
        """Return the embeddings of all texts of all batches, in order: (texts, dim) float32.

        A call takes several batches, so that distributed wrappers run a single forward pass per step.
        """
        with self._own_precision():
            return torch.cat([_of_texts(self._embed(batch), batch) for batch in batches])

    def _own_precision(self) -> AbstractContextManager[object]:
        """Return the context of a pass, which is without autocast if the backbone has a `compute_type`."""
        if self.compute_type is None:
            return nullcontext()
        return torch.autocast(next(self.parameters()).device.type, enabled=False)

    def why_padded(self, compute_type: torch.dtype, *, max_length: int) -> str | None:
        """Return why the tower must read padded texts on its device; None if it reads packed texts.

        Args:
            compute_type: Number type that the tower computes in. Flash Attention needs half precision.
            max_length: Length of the longest text to be read, in tokens.
        """
        device = next(self.parameters()).device
        missing = why_no_packed_attention(device, compute_type)
        if missing is not None:
            return missing
        autocast_to = torch.autocast(device.type, dtype=compute_type, enabled=compute_type != torch.float32)
        with autocast_to, self._own_precision():
            return why_padded(
                self.backbone,
                max_length=max_length,
                vocabulary_size=self.vocabulary_size,
                positions=positions(self.backbone),
                pad_token_id=padding_token(self.backbone),
            )

    def encode(self, batch: TokenBatch) -> torch.Tensor:
        """Return the output of a frozen encoder, which the remaining heads take: (texts, dim) float32."""
        if isinstance(batch, EncodedBatch):
            return batch.vectors
        with torch.no_grad():
            return _of_texts(_apply(list(self.heads)[: self._frozen_heads], self._pooled(batch)), batch)

    @contextmanager
    def without_added_heads(self) -> Iterator[None]:
        """Leave the added heads out within the context: the tower computes what the model below them does."""
        self._used_heads = self._own_heads
        try:
            yield
        finally:
            self._used_heads = len(self.heads)

    def _embed(self, batch: TokenBatch) -> torch.Tensor:
        heads = list(self.heads)[: self._used_heads]
        if self._frozen_heads is None and not isinstance(batch, EncodedBatch):
            return _apply(heads, self._pooled(batch))
        return _apply(heads[self._frozen_heads :], self.encode(batch))

    def _pooled(self, batch: PaddedBatch | PackedBatch) -> torch.Tensor:
        """Return the pooled vectors of a batch's texts: (texts, hidden size)."""
        if isinstance(batch, PackedBatch):
            vectors = read_packed(self.backbone, batch, padding_position=self._padding_position)
        else:
            output = self.backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            vectors = output.last_hidden_state
        pooled: torch.Tensor = self.pooling(vectors, batch)
        return pooled


def _apply(heads: Iterable[nn.Module], embeddings: torch.Tensor) -> torch.Tensor:
    """Return the output of heads that follow each other, in float32."""
    for head in heads:
        embeddings = head(embeddings).float()
    return embeddings


def _of_texts(rows: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    """Return the embeddings of a batch's texts, without rows that have no use."""
    return rows if len(rows) == len(batch) else rows[: len(batch)]


def why_no_packed_attention(device: torch.device, compute_type: torch.dtype) -> str | None:
    """Return why a device has no attention over packed texts in a number type; None if it has."""
    if device.type == "cuda":
        if compute_type == torch.float32:
            return NEEDS_HALF_PRECISION
        return why_no_flash_attention(torch.cuda.get_device_capability(device))
    return None if device.type == "cpu" else f"attention over packed texts is not tested on {device.type}"


def changes_itself(backbone: nn.Module) -> bool:
    """Return whether a forward pass may change the backbone's state, so that threads must take turns.

    Some rotary positions change it, and code from a model's repository may.
    """
    for module in backbone.modules():
        kinds: Any = getattr(module, "rope_type", None)
        kinds = kinds.values() if isinstance(kinds, dict) else (kinds,)
        if type(module).__module__.startswith("transformers_modules") or not CHANGING_ROPE.isdisjoint(kinds):
            return True
    return False


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return a context in which a model computes in `precision`."""
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
