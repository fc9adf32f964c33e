"""Cross-encoder: a model that reads a query and a product as one sequence, and gives a score."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from aisle.kernels.packed_attention import padding_position, read_packed, shared_copy
from aisle.kernels.packing_check import random_texts, why_padded
from aisle.models.backbone import padding_token, positions, vocabulary_size
from aisle.models.classification_heads import packed_logits, why_no_head
from aisle.models.tower import changes_itself, why_no_packed_attention
from aisle.text.token_batches import EncodedBatch, PackedBatch, TokenBatch, pack, pad

LENGTHS = (3, 5, 5, 8)
"""Tokens of the texts on which packed and padded scores are compared."""
LARGEST_ERROR = 1e-3
LARGEST_ERROR_IN_HALF_PRECISION = 0.1
"""Largest difference of a score, relative to the largest score."""


class CrossEncoder(nn.Module):
    """Turn token batches of joined pairs into scores.

    Training treats it as a tower whose texts are joined pairs and whose embeddings have one component, the
    score. On disk it is transformers' model for sequence classification, with one label.

    Args:
        backbone: Any `AutoModelForSequenceClassification` with one label, with or without an adapter.
    """

    separate_sides = False
    """Both sides of a pair are in the same text."""
    dim = 1
    """Number of components of the output: the score."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        model: Any = self.model
        # Accelerate's FSDP shards the layers of these classes one by one.
        self._no_split_modules = getattr(model, "_no_split_modules", None)
        self._padding_position = padding_position(model.base_model)
        self.changes_itself = changes_itself(backbone)
        self.compute_type: torch.dtype | None = None
        """Number type in which the backbone computes without autocast."""
        if getattr(model.config, "use_cache", False):
            model.config.use_cache = False  # or decoders keep the keys and values of every text

    @property
    def model(self) -> nn.Module:
        """The model for sequence classification, without the wrapper of an adapter."""
        return classifier_of(self.backbone)

    @property
    def backbones(self) -> tuple[nn.Module, ...]:
        """The backbone in a tuple, like `Tower.backbones`."""
        return (self.backbone,)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens with an embedding."""
        return vocabulary_size(self.model)

    def forward(self, batches: Sequence[TokenBatch]) -> torch.Tensor:
        """Return the scores (logits) of all pairs of all batches, in order: (pairs, 1) float32."""
        with self._own_precision():
            return torch.cat([self._scores(batch)[: len(batch)].float() for batch in batches])

    def _own_precision(self) -> AbstractContextManager[object]:
        """Return the context of a pass, which is without autocast if the backbone has a `compute_type`."""
        if self.compute_type is None:
            return nullcontext()
        return torch.autocast(next(self.parameters()).device.type, enabled=False)

    def _scores(self, batch: TokenBatch) -> torch.Tensor:
        model: Any = self.model
        assert not isinstance(batch, EncodedBatch)  # pairs have no vectors of a frozen encoder
        if isinstance(batch, PackedBatch):
            vectors = read_packed(model.base_model, batch, padding_position=self._padding_position)
            return packed_logits(model, vectors, batch.offsets)
        types = {} if batch.types is None else {"token_type_ids": batch.types}
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **types)
        logits: torch.Tensor = output.logits
        return logits

    def why_padded(self, compute_type: torch.dtype, *, max_length: int) -> str | None:
        """Return why the model must read padded pairs on its device; None if it reads packed pairs.

        See `Tower.why_padded`. The scores of a few packed texts are also compared with the scores that the
        model's own forward pass gives the padded texts.
        """
        model: Any = self.model
        device = next(self.parameters()).device
        missing = why_no_head(model) or why_no_packed_attention(device, compute_type)
        if missing is not None:
            return missing
        autocast_to = torch.autocast(device.type, dtype=compute_type, enabled=compute_type != torch.float32)
        with autocast_to, self._own_precision():
            reason = why_padded(
                model.base_model,
                max_length=max_length,
                vocabulary_size=self.vocabulary_size,
                positions=positions(model),
                pad_token_id=padding_token(model),
            )
            return reason or self._why_other_scores(half=compute_type != torch.float32)

    def _why_other_scores(self, *, half: bool) -> str | None:
        """Return how the scores of packed texts differ from those of padded texts; None if they agree."""
        device, pad_token_id = next(self.parameters()).device, padding_token(self.model)
        texts = random_texts(LENGTHS, self.vocabulary_size, pad_token_id)
        rows = np.arange(len(texts))
        copied = shared_copy(self).eval()
        with torch.no_grad():
            padded = copied._scores(pad(texts, rows, pad_token_id).to(device)).float()
            packed = copied._scores(pack(texts, rows).to(device)).float()
        error = float((packed - padded).abs().max() / padded.abs().max().clamp(min=1e-6))
        if error <= (LARGEST_ERROR_IN_HALF_PRECISION if half else LARGEST_ERROR):
            return None
        kind = cast(Any, self.model).config.model_type
        return f"{kind} gives packed pairs other scores: the largest difference is {error:.1%}"


def classifier_of(backbone: Any) -> nn.Module:
    """Return the model for sequence classification in a backbone with or without an adapter."""
    model: nn.Module = backbone.get_base_model() if hasattr(backbone, "peft_config") else backbone
    return model


def reads_types(model: Any, tokenizer: Any) -> bool:
    """Return whether a model reads the token types that its tokenizer gives."""
    read = "token_type_ids" in inspect.signature(model.base_model.forward).parameters
    types = int(getattr(model.config, "type_vocab_size", None) or 0)
    return read and types > 1 and "token_type_ids" in tokenizer.model_input_names
