"""The next batch is prepared while this one computes."""

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
    """Yield each item with what `make` makes of it; the next one is made meanwhile, in a thread.

    An error of `make` is raised where its item would have been yielded.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as worker:
        waiting = None
        for item in chain(items, [None]):
            following = None if item is None else (item, worker.submit(make, item))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
