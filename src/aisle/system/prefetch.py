"""Prepare the next batch in a thread while the model computes the current batch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetched(
    items: Iterable[Item], make: Callable[[Item], Made]
) -> Generator[tuple[Item, Made], None, None]:
    """Yield each item with the result of `make`, while a thread prepares the next result.

    An error in `make` is raised when its item is due.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as worker:
        waiting = None
        for item in chain(items, [None]):
            following = None if item is None else (item, worker.submit(make, item))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
