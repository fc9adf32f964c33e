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
    """Return the token ids of each text with its prompt, special tokens included, cut to `max_length`.

    A text without any token, where the tokenizer adds none of its own, is one padding token: no model can
    read nothing.
    """
    if not texts:
        return []
    encoded = tokenizer([prompt + text for text in texts], truncation=True, max_length=max_length)
    ids: list[list[int]] = encoded["input_ids"]
    return [one or [tokenizer.pad_token_id] for one in ids]


def pad(token_ids: Sequence[Sequence[int]], pad_token_id: int) -> TokenBatch:
    """Return texts padded on the right to the longest of them."""
    lengths = torch.tensor([len(ids) for ids in token_ids])
    mask = (torch.arange(int(lengths.max()))[None, :] < lengths[:, None]).long()
    input_ids = torch.full(mask.shape, pad_token_id, dtype=torch.long)
    input_ids[mask.bool()] = torch.tensor([token for ids in token_ids for token in ids])
    return TokenBatch(input_ids=input_ids, attention_mask=mask)


@dataclass(frozen=True)
class TokenBudget:
    """How texts are grouped before the model reads them.

    Args:
        max_tokens: the most tokens of a group, padding counted; bounds memory.
        group_cost: what a further group costs besides its tokens, in tokens.
    """

    max_tokens: int
    group_cost: int


ONE_GROUP = TokenBudget(max_tokens=1 << 40, group_cost=1 << 40)
"""All texts in one group, padded to the longest of them."""


def token_budget(device: torch.device, *, max_tokens: int | None = None) -> TokenBudget:
    """Return the grouping that suits a device; `benchmarks/token_budget.py` measures it.

    On CPU activations should stay in cache and a group costs next to nothing; on a GPU small groups
    leave most of it idle.

    Args:
        device: where the model computes.
        max_tokens: the user's own bound, if any.
    """
    suited = TokenBudget(1024, 32) if device.type == "cpu" else TokenBudget(65_536, 8192)
    return suited if max_tokens is None else TokenBudget(max_tokens, suited.group_cost)


def length_groups(lengths: Sequence[int], budget: TokenBudget) -> list[np.ndarray]:
    """Return which texts are encoded together: texts of like length, in groups of the least total cost.

    The cost of a division is its padded tokens plus `group_cost` per group; the best one is found over
    the distinct lengths by dynamic programming. The longest texts come first, so that a batch that does
    not fit in memory fails at its first group; a text longer than `max_tokens` is a group of its own.

    Args:
        lengths: tokens of each text.
        budget: bound and cost of a group.
    """
    if not len(lengths):
        return []
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    longest, counts = np.unique(-np.asarray(lengths, dtype=np.int64), return_counts=True)
    longest = np.maximum(-longest, 1)  # longest first
    ends = np.cumsum(counts)
    groups: list[np.ndarray] = []
    for first, last in _cheapest_spans(longest, counts, budget):
        rows = order[ends[first] - counts[first] : ends[last]]
        size = max(budget.max_tokens // int(longest[first]), 1)
        groups += [rows[start : start + size] for start in range(0, len(rows), size)]
    return groups


def _cheapest_spans(longest: np.ndarray, counts: np.ndarray, budget: TokenBudget) -> list[tuple[int, int]]:
    """Return spans (first, last) of distinct lengths, each padded to its first, of the least total cost."""
    texts_before = np.concatenate([[0], np.cumsum(counts)])
    cost = np.zeros(len(longest) + 1)
    begins = np.zeros(len(longest) + 1, dtype=np.int64)
    sizes = np.maximum(budget.max_tokens // longest, 1)
    for end in range(1, len(longest) + 1):
        texts = texts_before[end] - texts_before[:end]
        groups = -(-texts // sizes[:end])
        total = cost[:end] + texts * longest[:end] + groups * budget.group_cost
        begins[end] = int(np.argmin(total))
        cost[end] = total[begins[end]]
    spans = []
    end = len(longest)
    while end:
        spans.append((int(begins[end]), end - 1))
        end = int(begins[end])
    return spans[::-1]
