"""Recognise out-of-memory errors, and advise the user what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils.memory import should_reduce_batch_size

from aisle.errors import TrainingError


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that the GPU or the CPU is out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or bool(should_reduce_batch_size(error))


@contextmanager
def advising_on_memory(where: str, advice: str) -> Iterator[None]:
    """Turn an out-of-memory error in the block into a `TrainingError` with advice.

    Args:
        where: Part of the run, for the message.
        advice: Advice on what to change, for the message.

    Raises:
        TrainingError: Memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"{where}: out of memory. {advice}") from None
