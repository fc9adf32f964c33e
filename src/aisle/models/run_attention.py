"""Attention over runs of texts of equal length, packed end to end: for training on CPU.

Texts are short, so that what costs is not the products but the copies and calls around them. One operation
over all runs writes each run's part in place, where automatic differentiation would copy every part twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from aisle.models.fast_dropout import keep_mask

LONGEST = 128
"""The weights of longer texts are not worth keeping: their memory grows with the square of the length."""

Runs = tuple[tuple[int, int], ...]


class RunAttention(torch.autograd.Function):
    """softmax(s Q K^T) V within each text, with dropout of the weights, and its gradient; no mask."""

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
        """Return what each token attends to: (tokens, heads, head_dim), as the inputs are."""
        attended, kept = torch.empty_like(query), []
        for tokens, run in _spans(runs):
            queries, keys, values = (_by_head(one[tokens], run) for one in (query, key, value))
            # Autocast would compute the weights in another type than the rest.
            with torch.autocast(query.device.type, enabled=False):
                weights = torch.bmm(queries, keys.transpose(1, 2)).mul_(scaling).softmax(dim=-1)
                dropped = keep_mask(weights.shape, dropout, weights.dtype) if dropout else None
                passed = weights if dropped is None else weights * dropped
                _put(attended[tokens], run, torch.bmm(passed, values))
            kept += [queries, keys, values, weights, dropped]
        ctx.save_for_backward(*kept)
        ctx.runs, ctx.scaling = runs, scaling
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        kept = ctx.saved_tensors
        of_query, of_key, of_value = (torch.empty_like(gradient) for _ in range(3))
        for number, (tokens, run) in enumerate(_spans(ctx.runs)):
            queries, keys, values, weights, dropped = kept[5 * number : 5 * number + 5]
            outer = _by_head(gradient[tokens], run)
            passed = weights if dropped is None else weights * dropped
            _put(of_value[tokens], run, torch.bmm(passed.transpose(1, 2), outer))
            of_weights = torch.bmm(outer, values.transpose(1, 2)).mul_(passed)
            # The gradient of a softmax: w (g - sum of w g).
            of_scores = of_weights.sub_(weights * of_weights.sum(dim=-1, keepdim=True)).mul_(ctx.scaling)
            _put(of_query[tokens], run, torch.bmm(of_scores, keys))
            _put(of_key[tokens], run, torch.bmm(of_scores.transpose(1, 2), queries))
        return of_query, of_key, of_value, None, None, None


def _spans(runs: Runs) -> Iterator[tuple[slice, tuple[int, int]]]:
    start = 0
    for texts, length in runs:
        yield slice(start, start + texts * length), (texts, length)
        start += texts * length


def _by_head(tokens: torch.Tensor, run: tuple[int, int]) -> torch.Tensor:
    """Return (texts x heads, length, head_dim) from a run's (tokens, heads, head_dim)."""
    split: torch.Tensor = torch.unflatten(tokens, 0, run)
    return split.transpose(1, 2).flatten(0, 1)


def _put(place: torch.Tensor, run: tuple[int, int], by_head: torch.Tensor) -> None:
    """Write (texts x heads, length, head_dim) to a run's (tokens, heads, head_dim)."""
    split = torch.unflatten(by_head, 0, (run[0], place.shape[1]))
    torch.unflatten(place, 0, run).copy_(split.transpose(1, 2))
