"""A cross-encoder as a tower for export: pairs are texts, and a score is an embedding of one component.

So the graph, the 8-bit layers and the sessions of encoders serve rerankers too. The graph has a single input:
a token of the second kind (BERT's token type 1) is its id plus the size of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.classification_heads import PACKED_HEADS, why_no_head
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower


class PairTower(Tower):
    """Tower of a cross-encoder.

    Args:
        model: Model for sequence classification with one label, on CPU, in evaluation mode.
        typed: Whether the model reads token types.

    Raises:
        ModelError: aisle does not know the head of the architecture.
    """

    def __init__(self, model: Any, *, typed: bool) -> None:
        missing = why_no_head(model)
        if missing is not None:
            raise ModelError(f"{missing}, so it cannot be exported; serve it with torch")
        head = ScoreHead(model)
        super().__init__(
            TypedBackbone(model.base_model) if typed else model.base_model, Pooling(head.pooling), [head]
        )
        self._typed = typed

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, with those of both kinds."""
        return super().vocabulary_size * (2 if self._typed else 1)


class TypedBackbone(nn.Module):
    """A backbone that reads the type of a token from its id.

    Args:
        base: Backbone with two kinds of tokens.
    """

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base
        self.config = base.config
        self.first_of_second_kind = int(base.config.vocab_size)

    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
        """Return the backbone's output.

        Args:
            input_ids: (texts, tokens) int64, plus the size of the vocabulary for tokens of the second kind.
            options: Other arguments of the backbone.
        """
        types = (input_ids >= self.first_of_second_kind).to(torch.int64)
        ids = input_ids - types * self.first_of_second_kind
        return self.base(input_ids=ids, token_type_ids=types, **options)


class ScoreHead(nn.Module):
    """The classification head of a model, without its backbone.

    Args:
        model: Model for sequence classification; BERT's pooler moves from the backbone to the head, so that
            it stays in float32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        base = model.base_model
        for name, module in model.named_children():
            if module is not base:
                self.add_module(name, module)
        self.config = model.config
        self.kind = str(model.config.model_type)
        self.pooling: Any = "mean" if getattr(model.config, "classifier_pooling", "cls") == "mean" else "cls"
        pooler = nn.Module()
        if getattr(base, "pooler", None) is not None:
            pooler.pooler, base.pooler = base.pooler, None
        self.base_model = pooler

    def output_dim(self, dim: int) -> int:
        """Return 1: the score."""
        return 1

    def saved_as(self) -> tuple[()]:
        """Return nothing: a tower for export is not saved."""
        return ()

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the scores: (texts, 1)."""
        return PACKED_HEADS[self.kind](self, vectors)
