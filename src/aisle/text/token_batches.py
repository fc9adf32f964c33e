"""Batches of tokens for a backbone: texts packed end to end, or padded with others of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch

from aisle.text.tokens import PRODUCT, QUERY, Side, TokenizedTexts

WHOLE_BATCH = 1 << 40
"""A limit on tokens that no batch reaches."""


@dataclass(frozen=True)
class PaddedBatch:
    """Texts of similar length, padded on the right to the longest.

    Args:
        input_ids: (texts, tokens) int64.
        attention_mask: (texts, tokens) int64, 1 for real tokens.
        side: Side of all the texts; None if queries and products are mixed, for one tower that reads both.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    side: Side | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def read_tokens(self) -> int:
        """Tokens that the backbone computes, padding included."""
        return self.input_ids.numel()

    def to(self, device: torch.device) -> PaddedBatch:
        """Return the batch on a device."""
        return replace(
            self, input_ids=_to(self.input_ids, device), attention_mask=_to(self.attention_mask, device)
        )


@dataclass(frozen=True)
class PackedBatch:
    """Texts end to end, without padding; texts of equal length are neighbours.

    Args:
        input_ids: (tokens,) int64.
        positions: (tokens,) int64, each token's position in its text, from 0.
        offsets: (texts + 1,) int32, where each text begins; the last is the number of tokens.
        runs: (texts, length) of each run of texts of equal length.
        side: Side of all the texts; None if queries and products are mixed, for one tower that reads both.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    offsets: torch.Tensor
    runs: tuple[tuple[int, int], ...]
    side: Side | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def read_tokens(self) -> int:
        """Tokens that the backbone computes."""
        return self.input_ids.numel()

    @property
    def longest(self) -> int:
        """Tokens in the longest text."""
        return max(length for _, length in self.runs)

    def to(self, device: torch.device) -> PackedBatch:
        """Return the batch on a device."""
        return replace(
            self,
            input_ids=_to(self.input_ids, device),
            positions=_to(self.positions, device),
            offsets=_to(self.offsets, device),
        )


TokenBatch = PaddedBatch | PackedBatch


def pad(texts: TokenizedTexts, rows: np.ndarray, pad_token_id: int) -> PaddedBatch:
    """Return some texts, padded on the right to the longest of them."""
    lengths = torch.from_numpy(texts.lengths(rows))
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    input_ids = torch.full(mask.shape, pad_token_id, dtype=torch.long)
    input_ids[mask] = torch.from_numpy(texts.take(rows))
    return PaddedBatch(input_ids=input_ids, attention_mask=mask.long())


def pack(texts: TokenizedTexts, rows: np.ndarray) -> PackedBatch:
    """Return some texts end to end; put rows of equal length next to each other."""
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
    """Split a batch into parts of at most `max_tokens`, in order; a longer text is a part by itself."""
    if batch.read_tokens <= max_tokens:
        return [batch]
    if isinstance(batch, PaddedBatch):
        size = max(max_tokens // batch.input_ids.shape[1], 1)
        ids, masks = torch.split(batch.input_ids, size), torch.split(batch.attention_mask, size)
        return [PaddedBatch(*part, side=batch.side) for part in zip(ids, masks, strict=True)]
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
                side=batch.side,
            )
        )
    return parts


@dataclass(frozen=True)
class Layout:
    """How texts are arranged in batches for a model.

    Args:
        packed: Texts end to end without padding; otherwise padded in groups of similar length.
        max_tokens: Most tokens in a batch, padding included; limits memory.
        group_cost: Cost of one more padded group besides its tokens, in tokens.
        pad_token_id: Token that fills padded batches.
        separate_sides: Whether queries and products go into separate batches, for separate towers.
    """

    packed: bool
    max_tokens: int
    group_cost: int
    pad_token_id: int
    separate_sides: bool = False

    def by_tower(self, texts: TokenizedTexts, numbers: np.ndarray) -> list[np.ndarray]:
        """Return the numbers of texts in one array per tower: all together, or queries and products apart."""
        if not self.separate_sides:
            return [numbers]
        sides = texts.sides_of(numbers)
        return [part for side in (QUERY, PRODUCT) if len(part := numbers[sides == side])]

    def rows(self, lengths: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Return the texts of each batch: longest first, texts of equal length in their order.

        A batch that is too large for memory then fails at once. The texts are read by the same tower.
        """
        if not self.packed:
            return length_groups(lengths, max_tokens=self.max_tokens, group_cost=self.group_cost)
        order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
        return _spans_of(order, np.asarray(lengths, dtype=np.int64)[order], self.max_tokens)

    def batch(self, texts: TokenizedTexts, rows: np.ndarray) -> TokenBatch:
        """Return the batch of some texts, all read by the same tower."""
        batch = pack(texts, rows) if self.packed else pad(texts, rows, self.pad_token_id)
        if not self.separate_sides:
            return batch
        (side,) = set(texts.sides_of(rows).tolist())
        return replace(batch, side="query" if side == QUERY else "product")


def device_layout(
    device: torch.device,
    *,
    packed: bool,
    pad_token_id: int,
    max_tokens: int | None = None,
    separate_sides: bool = False,
) -> Layout:
    """Return the layout that is fast on a device (docs/benchmarks.md).

    On CPU one more group costs next to nothing and activations should stay in cache; on a GPU small groups
    leave most of it idle.

    Args:
        device: Device that the model computes on.
        packed: Whether the model reads packed texts there.
        pad_token_id: The tokenizer's padding token.
        max_tokens: The user's limit, if any.
        separate_sides: Whether queries and products have separate towers.
    """
    suited, group_cost = (4096 if packed else 1024, 32) if device.type == "cpu" else (65_536, 8192)
    return Layout(packed, max_tokens or suited, group_cost, pad_token_id, separate_sides)


def length_groups(
    lengths: Sequence[int] | np.ndarray, *, max_tokens: int, group_cost: int
) -> list[np.ndarray]:
    """Return which texts to pad together: texts of similar length, in groups of the least total cost.

    The cost is the number of padded tokens plus `group_cost` per group; dynamic programming over the
    distinct lengths finds the cheapest grouping. The longest texts come first; a text longer than
    `max_tokens` is a group by itself.

    Args:
        lengths: Tokens in each text.
        max_tokens: Most tokens in a group, padding included.
        group_cost: Cost of one more group besides its tokens, in tokens.
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
    """Return the cheapest spans (first, last) of distinct lengths, each padded to its first length."""
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
    """Cut rows, in order, into spans of at most `max_tokens`; a longer text is a span by itself."""
    spans, start, tokens = [], 0, 0
    for row, length in enumerate(lengths.tolist()):
        if tokens and tokens + length > max_tokens:
            spans.append(order[start:row])
            start, tokens = row, 0
        tokens += length
    return [*spans, order[start:]] if len(order) else []


def _to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.to(device, non_blocking=True)
