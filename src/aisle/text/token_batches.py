"""What a backbone reads at a time: texts packed end to end, or padded with others of like length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from aisle.text.tokens import TokenizedTexts

WHOLE_BATCH = 1 << 40
"""A bound on tokens that no batch reaches."""


@dataclass(frozen=True)
class PaddedBatch:
    """Texts of like length, padded on the right to the longest.

    Args:
        input_ids: (texts, tokens) int64.
        attention_mask: (texts, tokens) int64, 1 for real tokens.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def read_tokens(self) -> int:
        """Tokens that the backbone computes, padding included."""
        return self.input_ids.numel()

    def to(self, device: torch.device) -> PaddedBatch:
        """Return the batch on a device."""
        return PaddedBatch(_to(self.input_ids, device), _to(self.attention_mask, device))


@dataclass(frozen=True)
class PackedBatch:
    """Texts end to end, without padding; texts of one length stand together.

    Args:
        input_ids: (tokens,) int64.
        positions: (tokens,) int64, each token's place in its text, from 0.
        offsets: (texts + 1,) int32, where each text begins; the last is the number of tokens.
        runs: (texts, length) of each run of texts of equal length.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    offsets: torch.Tensor
    runs: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def read_tokens(self) -> int:
        """Tokens that the backbone computes."""
        return self.input_ids.numel()

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(length for _, length in self.runs)

    def to(self, device: torch.device) -> PackedBatch:
        """Return the batch on a device."""
        return PackedBatch(
            _to(self.input_ids, device), _to(self.positions, device), _to(self.offsets, device), self.runs
        )


TokenBatch = PaddedBatch | PackedBatch


def pad(texts: TokenizedTexts, rows: np.ndarray, pad_token_id: int) -> PaddedBatch:
    """Return these texts padded on the right to the longest of them."""
    lengths = torch.from_numpy(texts.lengths(rows))
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    input_ids = torch.full(mask.shape, pad_token_id, dtype=torch.long)
    input_ids[mask] = torch.from_numpy(texts.take(rows))
    return PaddedBatch(input_ids=input_ids, attention_mask=mask.long())


def pack(texts: TokenizedTexts, rows: np.ndarray) -> PackedBatch:
    """Return these texts end to end; rows of equal length should be neighbours."""
    lengths = texts.lengths(rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return PackedBatch(
        input_ids=torch.from_numpy(texts.take(rows)),
        positions=torch.from_numpy(positions),
        offsets=torch.from_numpy(offsets.astype(np.int32)),
        runs=_runs_of(lengths),
    )


def _runs_of(lengths: np.ndarray) -> tuple[tuple[int, int], ...]:
    return tuple((len(list(run)), length) for length, run in groupby(lengths.tolist()))


def split(batch: TokenBatch, max_tokens: int) -> list[TokenBatch]:
    """Return a batch in parts of at most `max_tokens`, in order; a longer text is a part of its own."""
    if batch.read_tokens <= max_tokens:
        return [batch]
    if isinstance(batch, PaddedBatch):
        size = max(max_tokens // batch.input_ids.shape[1], 1)
        ids, masks = torch.split(batch.input_ids, size), torch.split(batch.attention_mask, size)
        return [PaddedBatch(*part) for part in zip(ids, masks, strict=True)]
    lengths = np.array([length for texts, length in batch.runs for _ in range(texts)])
    ends = np.cumsum(lengths)
    parts: list[TokenBatch] = []
    for rows in _spans_of(np.arange(len(lengths)), lengths, max_tokens):
        first, last = int(rows[0]), int(rows[-1])
        tokens = slice(int(ends[first] - lengths[first]), int(ends[last]))
        parts.append(
            PackedBatch(
                input_ids=batch.input_ids[tokens],
                positions=batch.positions[tokens],
                offsets=batch.offsets[first : last + 2] - batch.offsets[first],
                runs=_runs_of(lengths[rows]),
            )
        )
    return parts


@dataclass(frozen=True)
class Layout:
    """How texts are laid out for a backbone.

    Args:
        packed: end to end without padding; else padded in groups of like length.
        max_tokens: the most tokens of a batch, padding counted; bounds memory.
        group_cost: what a further padded group costs besides its tokens, in tokens.
        pad_token_id: fills padded batches.
    """

    packed: bool
    max_tokens: int
    group_cost: int
    pad_token_id: int

    def rows(self, lengths: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Return which texts make up each batch: longest first, texts of one length in their order.

        A batch too large for memory then fails at once.
        """
        if not self.packed:
            return length_groups(lengths, max_tokens=self.max_tokens, group_cost=self.group_cost)
        order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
        return _spans_of(order, np.asarray(lengths, dtype=np.int64)[order], self.max_tokens)

    def batch(self, texts: TokenizedTexts, rows: np.ndarray) -> TokenBatch:
        """Return the batch of these texts."""
        return pack(texts, rows) if self.packed else pad(texts, rows, self.pad_token_id)


def device_layout(
    device: torch.device, *, packed: bool, pad_token_id: int, max_tokens: int | None = None
) -> Layout:
    """Return the layout that suits a device (docs/results.md).

    On CPU a group costs next to nothing and activations should stay in cache; on a GPU small groups
    leave most of it idle.

    Args:
        device: where the model computes.
        packed: whether the backbone reads packed texts there.
        pad_token_id: of the tokenizer.
        max_tokens: the user's own bound, if any.
    """
    suited, group_cost = (4096 if packed else 1024, 32) if device.type == "cpu" else (65_536, 8192)
    return Layout(packed, max_tokens or suited, group_cost, pad_token_id)


def length_groups(
    lengths: Sequence[int] | np.ndarray, *, max_tokens: int, group_cost: int
) -> list[np.ndarray]:
    """Return which texts are padded together: texts of like length, in groups of the least total cost.

    The cost of a division is its padded tokens plus `group_cost` per group; the best one is found over
    the distinct lengths by dynamic programming. The longest texts come first; a text longer than
    `max_tokens` is a group of its own.

    Args:
        lengths: tokens of each text.
        max_tokens: the most tokens of a group, padding counted.
        group_cost: what a further group costs besides its tokens, in tokens.
    """
    if not len(lengths):
        return []
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    longest, counts = np.unique(-np.asarray(lengths, dtype=np.int64), return_counts=True)
    longest = np.maximum(-longest, 1)  # longest first
    ends = np.cumsum(counts)
    groups: list[np.ndarray] = []
    for first, last in _cheapest_spans(longest, counts, max_tokens, group_cost):
        rows = order[ends[first] - counts[first] : ends[last]]
        size = max(max_tokens // int(longest[first]), 1)
        groups += [rows[start : start + size] for start in range(0, len(rows), size)]
    return groups


def _cheapest_spans(
    longest: np.ndarray, counts: np.ndarray, max_tokens: int, group_cost: int
) -> list[tuple[int, int]]:
    """Return spans (first, last) of distinct lengths, each padded to its first, of the least total cost."""
    texts_before = np.concatenate([[0], np.cumsum(counts)])
    cost = np.zeros(len(longest) + 1)
    begins = np.zeros(len(longest) + 1, dtype=np.int64)
    sizes = np.maximum(max_tokens // longest, 1)
    for end in range(1, len(longest) + 1):
        texts = texts_before[end] - texts_before[:end]
        groups = -(-texts // sizes[:end])
        total = cost[:end] + texts * longest[:end] + groups * group_cost
        begins[end] = int(np.argmin(total))
        cost[end] = total[begins[end]]
    spans = []
    end = len(longest)
    while end:
        spans.append((int(begins[end]), end - 1))
        end = int(begins[end])
    return spans[::-1]


def _spans_of(order: np.ndarray, lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Cut rows, in order, into spans of at most `max_tokens`; a longer text is a span of its own."""
    spans, start, tokens = [], 0, 0
    for row, length in enumerate(lengths.tolist()):
        if tokens and tokens + length > max_tokens:
            spans.append(order[start:row])
            start, tokens = row, 0
        tokens += length
    return [*spans, order[start:]] if len(order) else []


def _to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.to(device, non_blocking=True)
