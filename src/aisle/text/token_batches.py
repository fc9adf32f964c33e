"""Batches of texts for a tower: tokens packed end to end or padded, or vectors of a frozen encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch

from aisle.text.tokens import Side, TokenizedTexts


@dataclass(frozen=True)
class PaddedBatch:
    """Texts of similar length, padded on the right to the length of the longest.

    Args:
        input_ids: (texts, tokens) int64.
        attention_mask: (texts, tokens) int64, 1 for real tokens, 0 for padding.
        side: Side of the texts; None for a shared tower, whose batches mix queries and products.
        types: (texts, tokens) int64, type of each token, 0 in padding; None if the model reads no types.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    side: Side | None = None
    types: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def read_tokens(self) -> int:
        """Number of tokens that the backbone computes, including padding."""
        return self.input_ids.numel()

    def to(self, device: torch.device) -> PaddedBatch:
        """Return the batch on a device."""
        return replace(
            self,
            input_ids=_to(self.input_ids, device),
            attention_mask=_to(self.attention_mask, device),
            types=None if self.types is None else _to(self.types, device),
        )


@dataclass(frozen=True)
class PackedBatch:
    """Texts end to end, without padding; texts of equal length are neighbours.

    A batch of static shape (`text.static_shapes`) has rows after its texts: dummy texts, then empty ones.

    Args:
        input_ids: (tokens,) int64.
        positions: (tokens,) int64, each token's position in its text, from 0.
        offsets: (rows + 1,) int32, start of each text, then the number of tokens.
        runs: Number of texts and their length, for each run of texts of equal length, dummy texts included.
        longest: Upper limit on the number of tokens in a text.
        texts: Number of texts; rows after them are not used.
        side: Side of the texts; None for a shared tower, whose batches mix queries and products.
        types: (tokens,) int64, type of each token; None if the model reads no types.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    offsets: torch.Tensor
    runs: tuple[tuple[int, int], ...]
    longest: int
    texts: int
    side: Side | None = None
    types: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.texts

    @property
    def rows(self) -> int:
        """Rows of embeddings that a tower computes: those of the texts, then those without use."""
        return len(self.offsets) - 1

    @property
    def read_tokens(self) -> int:
        """Number of tokens that the backbone computes, including dummy texts."""
        return self.input_ids.numel()

    def to(self, device: torch.device) -> PackedBatch:
        """Return the batch on a device."""
        return replace(
            self,
            input_ids=_to(self.input_ids, device),
            positions=_to(self.positions, device),
            offsets=_to(self.offsets, device),
            types=None if self.types is None else _to(self.types, device),
        )


@dataclass(frozen=True)
class EncodedBatch:
    """Texts that a frozen encoder has read before: their vectors, for the tower's remaining heads.

    Args:
        vectors: (texts, dim) float32.
        read_tokens: Number of tokens of the texts.
        side: Side of the texts; None for a shared tower.
    """

    vectors: torch.Tensor
    read_tokens: int
    side: Side | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def to(self, device: torch.device) -> EncodedBatch:
        """Return the batch on a device."""
        return replace(self, vectors=_to(self.vectors, device))


TokenBatch = PaddedBatch | PackedBatch | EncodedBatch


def pad(texts: TokenizedTexts, rows: np.ndarray, pad_token_id: int) -> PaddedBatch:
    """Return the padded batch of some texts."""
    lengths = torch.from_numpy(texts.lengths(rows))
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    input_ids = torch.full(mask.shape, pad_token_id, dtype=torch.long)
    input_ids[mask] = torch.from_numpy(texts.take(rows))
    types = None
    if (taken := texts.take_types(rows)) is not None:
        types = torch.zeros_like(input_ids)
        types[mask] = torch.from_numpy(taken)
    return PaddedBatch(input_ids=input_ids, attention_mask=mask.long(), types=types)


def pack(texts: TokenizedTexts, rows: np.ndarray) -> PackedBatch:
    """Return the packed batch of some texts; `rows` must have texts of equal length side by side."""
    lengths = texts.lengths(rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    types = texts.take_types(rows)
    return PackedBatch(
        input_ids=torch.from_numpy(texts.take(rows)),
        positions=torch.from_numpy(positions),
        offsets=torch.from_numpy(offsets.astype(np.int32)),
        runs=_runs_of(lengths),
        longest=int(lengths.max()),
        texts=len(lengths),
        types=None if types is None else torch.from_numpy(types),
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
        types = [None] * len(ids) if batch.types is None else torch.split(batch.types, size)
        padded = zip(ids, masks, types, strict=True)
        return [PaddedBatch(part, mask, batch.side, of_part) for part, mask, of_part in padded]
    if isinstance(batch, EncodedBatch):
        each = -(-batch.read_tokens // len(batch))
        vectors = torch.split(batch.vectors, max(max_tokens // each, 1))
        return [EncodedBatch(part, len(part) * each, batch.side) for part in vectors]
    lengths = np.array([length for texts, length in batch.runs for _ in range(texts)])[: len(batch)]
    ends = np.cumsum(lengths)
    parts: list[TokenBatch] = []
    for rows in spans_of(np.arange(len(lengths)), lengths, max_tokens):
        first, last = int(rows[0]), int(rows[-1])
        tokens = slice(int(ends[first] - lengths[first]), int(ends[last]))
        parts.append(
            PackedBatch(
                input_ids=batch.input_ids[tokens],
                positions=batch.positions[tokens],
                offsets=batch.offsets[first : last + 2] - batch.offsets[first],
                runs=_runs_of(lengths[rows]),
                longest=int(lengths[rows].max()),
                texts=len(rows),
                side=batch.side,
                types=None if batch.types is None else batch.types[tokens],
            )
        )
    return parts


def spans_of(order: np.ndarray, lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Divide rows, in order, into spans of at most `max_tokens`; a longer text is a span by itself."""
    spans, start, tokens = [], 0, 0
    for row, length in enumerate(lengths.tolist()):
        if tokens and tokens + length > max_tokens:
            spans.append(order[start:row])
            start, tokens = row, 0
        tokens += length
    return [*spans, order[start:]] if len(order) else []


def _to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()  # from other memory, the host would wait for the batches before
    return tensor.to(device, non_blocking=True)
