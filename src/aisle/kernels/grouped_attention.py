"""Attention within each of many short texts, packed end to end, for training on CPU.

Texts are short, so the calls and copies around the matrix products cost more than the products. Here texts of
similar length are grouped and computed together, in a single operation that writes each group's result in
place. Only the attention weights are padded, and padding has weight 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from aisle.kernels.fast_dropout import keep_mask
from aisle.text.batch_layout import length_groups

LONGEST = 128
"""Longest text to compute here: kept attention weights take memory that grows with the squared length."""
MAX_TOKENS = 4096
GROUP_COST = 32
"""Cost of an additional group, in padded tokens (docs/notes/training-speed.md)."""

Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Group:
    """Texts to compute together, in (texts x heads, length) places: a row for each head of each text.

    Args:
        places: Slice of this group in the places of all groups.
        rows: (places,) row of the packed batch's heads at each place; padding repeats the text's first token.
        shape: Number of texts x heads, and number of tokens in the longest text.
        hidden: (texts x heads, 1, length) -inf for padding and 0 for tokens; None without padding.
        real: (texts x heads, length, 1) 0 for padding and 1 for tokens; None without padding.
    """

    places: slice
    rows: torch.Tensor
    shape: tuple[int, int]
    hidden: torch.Tensor | None
    real: torch.Tensor | None


@dataclass(frozen=True)
class Grouping:
    """Groups of a packed batch; `places` is the place of each token's head, (tokens x heads,)."""

    groups: tuple[Group, ...]
    places: torch.Tensor


class GroupedAttention(torch.autograd.Function):
    """Compute softmax(s Q K^T) V within each text, with dropout of the weights, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        runs: Runs,
        scaling: float,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """Return the attention of each token: (tokens, heads, head_dim), like the inputs."""
        grouping = group_heads(runs, query.shape[1])
        masks = _weight_masks(grouping, dropout, query.dtype)
        attended = query.new_empty(_places(grouping, query))
        kept = []
        # Under autocast the weights would have another type than the rest.
        with torch.autocast(query.device.type, enabled=False):
            for group, mask in zip(grouping.groups, masks, strict=True):
                queries, keys, values = (_by_head(one, group) for one in (query, key, value))
                scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(scaling)
                weights = (scores if group.hidden is None else scores.add_(group.hidden)).softmax(dim=-1)
                passed = weights if mask is None else weights * mask
                torch.bmm(passed, values, out=_part(attended, group))
                kept += [queries, keys, values, weights, passed]
        ctx.save_for_backward(*kept)
        ctx.grouping, ctx.scaling = grouping, scaling
        return attended.index_select(0, grouping.places).view(query.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        kept, grouping = ctx.saved_tensors, ctx.grouping
        of_query, of_key, of_value = (gradient.new_empty(_places(grouping, gradient)) for _ in range(3))
        for number, group in enumerate(grouping.groups):
            queries, keys, values, weights, passed = kept[5 * number : 5 * number + 5]
            outer = _by_head(gradient, group)
            torch.bmm(passed.transpose(1, 2), outer, out=_part(of_value, group))
            of_weights = torch.bmm(outer, values.transpose(1, 2)).mul_(passed)
            # The gradient of a softmax: w (g - sum of w g).
            of_scores = of_weights.sub_(weights * of_weights.sum(dim=-1, keepdim=True)).mul_(ctx.scaling)
            torch.bmm(of_scores, keys, out=_part(of_query, group))
            torch.bmm(of_scores.transpose(1, 2), queries, out=_part(of_key, group))
        found = (
            one.index_select(0, grouping.places).view(gradient.shape) for one in (of_query, of_key, of_value)
        )
        return (*found, None, None, None)


@lru_cache(maxsize=4)
def group_heads(runs: Runs, heads: int) -> Grouping:
    """Return the groups of a packed batch; all layers of a forward pass share them.

    Args:
        runs: Number of texts and their length, for each run of texts of equal length, in batch order.
        heads: Number of attention heads.
    """
    lengths = np.repeat([length for _, length in runs], [texts for texts, _ in runs])
    first_tokens = np.cumsum(lengths) - lengths
    head = np.arange(heads)
    groups: list[Group] = []
    places = np.empty((int(lengths.sum()), heads), dtype=np.int64)
    start = 0
    for texts in length_groups(lengths, max_tokens=MAX_TOKENS, group_cost=GROUP_COST):
        length = int(lengths[texts].max())
        place = np.arange(length)
        real = place < lengths[texts][:, None]
        tokens = first_tokens[texts][:, None] + np.where(real, place, 0)
        rows = tokens[:, None, :] * heads + head[None, :, None]
        numbers = start + np.arange(rows.size).reshape(rows.shape)
        places[tokens[real]] = numbers.transpose(0, 2, 1)[real]
        masks = (None, None) if real.all() else _padding_masks(np.repeat(real, heads, axis=0))
        groups.append(
            Group(
                slice(start, start + rows.size),
                torch.from_numpy(rows.ravel()),
                (len(texts) * heads, length),
                *masks,
            )
        )
        start += rows.size
    return Grouping(tuple(groups), torch.from_numpy(places.ravel()))


def _padding_masks(real: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = np.where(real, np.float32(0), np.float32(-np.inf))
    return torch.from_numpy(hidden[:, None]), torch.from_numpy(real[:, :, None].astype(np.float32))


def _weight_masks(grouping: Grouping, dropout: float, dtype: torch.dtype) -> list[torch.Tensor | None]:
    """Return the factors of each group's weights: dropout, and 0 for padding.

    Without the 0, padding would add to the gradient of the token that it repeats.
    """
    if not dropout:
        return [None if group.real is None else group.real.to(dtype) for group in grouping.groups]
    shapes = [(*group.shape, group.shape[1]) for group in grouping.groups]
    sizes = [count * length * length for count, length, _ in shapes]
    drawn = torch.split(keep_mask(torch.Size([sum(sizes)]), dropout, dtype), sizes)
    masks = [mask.view(shape) for mask, shape in zip(drawn, shapes, strict=True)]
    return [
        mask if group.real is None else mask.mul_(group.real)
        for mask, group in zip(masks, grouping.groups, strict=True)
    ]


def _places(grouping: Grouping, like: torch.Tensor) -> tuple[int, int]:
    return grouping.groups[-1].places.stop, like.shape[2]


def _by_head(tokens: torch.Tensor, group: Group) -> torch.Tensor:
    """Return (texts x heads, length, head_dim) from (tokens, heads, head_dim)."""
    return tokens.reshape(-1, tokens.shape[2]).index_select(0, group.rows).view(*group.shape, -1)


def _part(places: torch.Tensor, group: Group) -> torch.Tensor:
    return places[group.places].view(*group.shape, -1)
