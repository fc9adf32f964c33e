"""Tensors that lie directly behind each other in memory, so that one operation reads or writes them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def adjacent_zeros(weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return zeros of the shapes of some weights, adjacent in memory if all are of the same type.

    Ranks sum adjacent gradients without copying them (`training.distributed`).
    """
    if len({(weight.dtype, weight.device) for weight in weights}) != 1:
        return [torch.zeros_like(weight) for weight in weights]
    sizes = [weight.numel() for weight in weights]
    numbers = weights[0].new_zeros(sum(sizes), requires_grad=False)
    return [
        part.view(weight.shape) for part, weight in zip(torch.split(numbers, sizes), weights, strict=True)
    ]


def are_adjacent(tensors: Sequence[torch.Tensor]) -> bool:
    """Return whether tensors are contiguous, of one type, and adjacent in one storage, in their order."""
    first = tensors[0]
    storage, start = first.untyped_storage().data_ptr(), first.storage_offset()
    for tensor in tensors:
        placed = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.dtype)
        if placed != (storage, start, first.dtype) or not tensor.is_contiguous():
            return False
        start += tensor.numel()
    return True
