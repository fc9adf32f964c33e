"""Out of memory: recognise the error, advise what to change, or retry with less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size

from aisle.errors import TrainingError


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the GPU or the CPU has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or bool(should_reduce_batch_size(error))


@contextmanager
def advising_on_memory(where: str, advice: str) -> Iterator[None]:
    """Make a want of memory in the block an error that says what to do about it.

    Raises:
        TrainingError: memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"{where}: out of memory. {advice}") from None


def retrying_with_less_memory(
    attempt: Callable[[], Any], *, is_out_of_memory: Callable[[Exception], bool], shrink: Callable[[], None]
) -> Any:
    """Return what `attempt` returns, tried again after each `shrink` as long as memory runs out.

    The failed attempt's tensors are freed before the next: its traceback would hold them.
    """
    while True:
        try:
            return attempt()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        shrink()
