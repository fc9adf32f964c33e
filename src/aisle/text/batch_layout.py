"""Layout of texts in token batches: packed or padded, and how many tokens at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from aisle.text.static_shapes import static_batch
from aisle.text.token_batches import EncodedBatch, TokenBatch, pack, pad, spans_of
from aisle.text.tokens import PRODUCT, QUERY, TokenizedTexts

WHOLE_BATCH = 1 << 40
"""Limit on tokens that no batch reaches, to turn the limit off."""


@dataclass(frozen=True)
class Layout:
    """Layout of texts in batches for a model.

    Args:
        packed: Whether to pack texts end to end; otherwise they are padded in groups of similar length.
        max_tokens: Most tokens in a batch, including padding; it limits memory. Dummy texts of static shapes
            come on top, at most 6%.
        group_cost: Cost of an additional padded group, in tokens, without that of its own tokens.
        pad_token_id: Id of the padding token.
        separate_sides: Whether to put queries and products into separate batches, for separate towers.
        query_pad_token_id: Id of the padding token of a separate query tower; None if it is `pad_token_id`.
        static_length: Tokens in the longest of all texts, to round packed batches up to static shapes; None
            leaves them as they are.
    """

    packed: bool
    max_tokens: int
    group_cost: int
    pad_token_id: int
    separate_sides: bool = False
    static_length: int | None = None
    query_pad_token_id: int | None = None

    def by_tower(self, texts: TokenizedTexts, numbers: np.ndarray) -> list[np.ndarray]:
        """Return the text numbers of each tower: all together, or queries and products separately."""
        if not self.separate_sides:
            return [numbers]
        sides = texts.sides_of(numbers)
        return [part for side in (QUERY, PRODUCT) if len(part := numbers[sides == side])]

    def rows(self, lengths: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Divide the texts of a tower into batches, longest first; texts of equal length keep their order.

        With the longest texts first, a batch that is too large for memory fails at once.
        """
        if not self.packed:
            return length_groups(lengths, max_tokens=self.max_tokens, group_cost=self.group_cost)
        order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
        return spans_of(order, np.asarray(lengths, dtype=np.int64)[order], self.max_tokens)

    def batch(self, texts: TokenizedTexts, rows: np.ndarray) -> TokenBatch:
        """Return the batch of some texts, which must be of the same tower."""
        batch: TokenBatch
        if texts.vectors is not None:
            batch = EncodedBatch(torch.from_numpy(texts.vectors(rows)), int(texts.lengths(rows).sum()))
        elif not self.packed:
            batch = pad(texts, rows, self._padding(texts, rows))
        elif self.static_length is None:
            batch = pack(texts, rows)
        else:
            batch = static_batch(pack(texts, rows), self.static_length, self._padding(texts, rows))
        if not self.separate_sides:
            return batch
        (side,) = set(texts.sides_of(rows).tolist())
        return replace(batch, side="query" if side == QUERY else "product")

    def _padding(self, texts: TokenizedTexts, rows: np.ndarray) -> int:
        """Return the id of the padding token of the tower that reads these texts."""
        if self.query_pad_token_id is None or not self.separate_sides:
            return self.pad_token_id
        of_queries = len(rows) > 0 and texts.sides_of(rows[:1])[0] == QUERY
        return self.query_pad_token_id if of_queries else self.pad_token_id


def encoded_layout(layout: Layout) -> Layout:
    """Return a layout for texts with vectors of a frozen encoder: all texts of a tower in one batch."""
    return replace(layout, packed=True, max_tokens=WHOLE_BATCH, static_length=None)


def device_layout(
    device: torch.device,
    *,
    packed: bool,
    pad_token_id: int,
    max_tokens: int | None = None,
    separate_sides: bool = False,
) -> Layout:
    """Return a layout that is fast on a device (docs/results.md).

    On CPU, an additional group costs next to nothing, and activations should stay in cache. On a GPU, small
    groups leave most of it idle.

    Args:
        device: Device of the model.
        packed: Whether the model reads packed texts on this device.
        pad_token_id: Id of the tokenizer's padding token.
        max_tokens: Limit from the user; None takes a limit that suits the device.
        separate_sides: Whether queries and products have separate towers.
    """
    suited, group_cost = (4096 if packed else 1024, 32) if device.type == "cpu" else (65_536, 8192)
    return Layout(packed, max_tokens or suited, group_cost, pad_token_id, separate_sides)


def length_groups(
    lengths: Sequence[int] | np.ndarray, *, max_tokens: int, group_cost: int
) -> list[np.ndarray]:
    """Group texts of similar length to pad together, at the lowest total cost.

    The cost is the number of padded tokens plus `group_cost` per group. Dynamic programming over the
    distinct lengths finds the cheapest grouping. The longest texts come first; a text longer than
    `max_tokens` is a group by itself.

    Args:
        lengths: Number of tokens in each text.
        max_tokens: Most tokens in a group, including padding.
        group_cost: Cost of an additional group, in tokens, without that of its own tokens.
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
