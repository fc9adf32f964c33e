"""Texts as token batches: tokenised, grouped by length, padded to the longest of the group only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class TokenBatch:
    """Texts of like length, padded on the right to the longest.

    Args:
        input_ids: (texts, tokens) int64.
        attention_mask: (texts, tokens) int64, 1 for real tokens.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    def to(self, device: torch.device) -> TokenBatch:
        """Return the batch on a device."""
        return TokenBatch(
            self.input_ids.to(device, non_blocking=True), self.attention_mask.to(device, non_blocking=True)
        )


def tokenize(tokenizer: Any, texts: Sequence[str], *, prompt: str, max_length: int) -> list[list[int]]:
    """Return the token ids of each text with its prompt, special tokens included, cut to `max_length`."""
    if not texts:
        return []
    encoded = tokenizer([prompt + text for text in texts], truncation=True, max_length=max_length)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def pad(token_ids: Sequence[Sequence[int]], pad_token_id: int) -> TokenBatch:
    """Return texts padded on the right to the longest of them."""
    lengths = torch.tensor([len(ids) for ids in token_ids])
    mask = (torch.arange(int(lengths.max()))[None, :] < lengths[:, None]).long()
    input_ids = torch.full(mask.shape, pad_token_id, dtype=torch.long)
    input_ids[mask.bool()] = torch.tensor([token for ids in token_ids for token in ids])
    return TokenBatch(input_ids=input_ids, attention_mask=mask)


def length_groups(lengths: Sequence[int], *, max_tokens: int) -> list[np.ndarray]:
    """Return which texts are encoded together: sorted by length, at most `max_tokens` padded tokens a group.

    The longest come first, so that a batch that does not fit in memory fails at its first group; a text
    longer than `max_tokens` is a group of its own.

    Args:
        lengths: tokens of each text.
        max_tokens: the most tokens of a group, padding counted.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    groups: list[np.ndarray] = []
    start = 0
    while start < len(order):
        size = max(max_tokens // max(int(lengths[order[start]]), 1), 1)
        groups.append(order[start : start + size])
        start += size
    return groups
