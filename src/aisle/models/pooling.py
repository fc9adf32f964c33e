"""One vector from a text's token vectors."""

from __future__ import annotations

from typing import Literal

import torch

Pooling = Literal["mean", "cls", "last"]


def pool(token_embeddings: torch.Tensor, attention_mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Return one vector per text, in float32.

    Args:
        token_embeddings: (texts, tokens, dim), padded on the right.
        attention_mask: (texts, tokens), 1 for real tokens and 0 for padding.
        pooling: `mean` of the real tokens (Sentence-BERT, https://arxiv.org/abs/1908.10084), the first
            token (`cls`), or the last real token (`last`, for decoders).

    Returns:
        (texts, dim) float32.
    """
    token_embeddings = token_embeddings.float()
    if pooling == "mean":
        weights = attention_mask.unsqueeze(-1).to(token_embeddings.dtype)
        return (token_embeddings * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
    if pooling == "cls":
        return token_embeddings[:, 0]
    last = attention_mask.sum(dim=1) - 1
    return token_embeddings[torch.arange(len(last), device=last.device), last]


def pool_packed(token_embeddings: torch.Tensor, offsets: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Return one vector per packed text, in float32; see `pool`.

    Args:
        token_embeddings: (tokens, dim), one text after the other.
        offsets: (texts + 1,) where each text begins; the last is the number of tokens.
        pooling: how a text's token vectors become one.

    Returns:
        (texts, dim) float32.
    """
    if pooling == "mean":
        lengths = offsets.diff().long()
        mean: torch.Tensor = torch.segment_reduce(
            token_embeddings.float(), "mean", lengths=lengths, unsafe=True
        )
        return mean
    rows = offsets[:-1] if pooling == "cls" else offsets[1:] - 1
    return token_embeddings[rows.long()].float()
