"""Classification heads of transformers' models for sequence classification, for packed texts.

A model for sequence classification is a backbone, and a head on the vectors of a text's tokens. transformers
has no interface for the head alone, so each family has a function here. `CrossEncoder.why_padded` compares
its result with the model's own forward pass; a model of another family reads padded texts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from aisle.models.pooling import pool_packed

PackedHead: TypeAlias = Callable[[Any, torch.Tensor], torch.Tensor]
"""Return the logits, (texts, 1), from the model and the vector of each text, (texts, dim)."""


def _bert(model: Any, vectors: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.classifier(model.dropout(model.base_model.pooler(vectors[:, None])))
    return logits


def _roberta(model: Any, vectors: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.classifier(vectors[:, None])
    return logits


def _distilbert(model: Any, vectors: torch.Tensor) -> torch.Tensor:
    hidden = nn.functional.relu(model.pre_classifier(vectors))
    logits: torch.Tensor = model.classifier(model.dropout(hidden))
    return logits


def _modernbert(model: Any, vectors: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.classifier(model.drop(model.head(vectors)))
    return logits


PACKED_HEADS: dict[str, PackedHead] = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
    "electra": _roberta,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
}
"""Heads by the `model_type` of the configuration."""


def why_no_head(model: Any) -> str | None:
    """Return why the head of a model cannot read packed texts; None if it can."""
    kind = str(model.config.model_type)
    return None if kind in PACKED_HEADS else f"aisle has no packed classification head for {kind}"


def packed_logits(model: Any, vectors: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Return the logits of packed texts: (texts, 1).

    Args:
        model: Model for sequence classification.
        vectors: (tokens, dim), token vectors of the packed texts.
        offsets: (texts + 1,) start of each text, then the number of tokens.
    """
    mode = getattr(model.config, "classifier_pooling", "cls")
    pooled = pool_packed(vectors, offsets, "mean" if mode == "mean" else "cls")
    logits = PACKED_HEADS[model.config.model_type](model, pooled.to(vectors.dtype))
    return logits


def head_modules(model: Any) -> list[nn.Module]:
    """Return the modules of a model that are not its backbone, and BERT's pooler, which only a head reads."""
    base = model.base_model
    heads = [module for module in model.children() if module is not base]
    pooler = getattr(base, "pooler", None)
    return heads if pooler is None else [*heads, pooler]
