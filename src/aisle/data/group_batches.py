"""Order texts with their groups so that a batch has few texts of a group."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

import numpy as np

__all__ = ["spread_parts"]


def spread_parts(groups: np.ndarray, parts: np.ndarray, *, batch: int, most: int) -> np.ndarray:
    """Return the order of rows in which a batch has at most `most` rows of a group.

    A group that has more than `most` rows for each batch has as many in a batch as it needs. Rows of a part
    stay together, unless the end of a batch divides them.

    Args:
        groups: (rows,) group of each row, in the order of an epoch.
        parts: (rows,) part of its group that each row belongs to; the rows of a part are next to each other.
        batch: Rows of a batch.
        most: Most rows of a part.
    """
    starts = np.flatnonzero(np.append(True, parts[1:] != parts[:-1]))
    ends = np.append(starts[1:], len(parts))
    _, group_of = np.unique(groups[starts], return_inverse=True)
    chosen = _Spread(group_of.tolist(), (ends - starts).tolist(), batch=batch, most=most)
    return np.concatenate([np.arange(starts[part], ends[part]) for part in chosen])


class _Spread:
    """Iterator over the numbers of parts, in an order that spreads the parts of a group over batches.

    A part that has to wait comes as soon as a batch has room for its group. So that the parts of a large
    group do not remain for the end, it gets its room first where the batches that are left need it.

    Args:
        group_of: Group of each part.
        sizes: Rows of each part.
        batch: Rows of a batch.
        most: Most rows of a group in a batch.
    """

    def __init__(self, group_of: list[int], sizes: list[int], *, batch: int, most: int) -> None:
        self._group_of, self._sizes, self._batch = group_of, sizes, batch
        self._left = Counter(group_of)
        whole, rest = divmod(sum(sizes), batch)
        self._batches = max(whole + (rest >= most), 1)
        """Batches that are left, this one included, except a last one that is too short for a part."""
        self._parts = {group: -(-parts // self._batches) for group, parts in self._left.items()}
        """Parts of each group that a batch has room for."""
        # Only groups with many of the parts that fit can run out of batches: there are few of these.
        self._large = [g for g, parts in self._left.items() if 4 * parts > self._parts[g] * self._batches]
        self._most = most
        self._waiting: dict[int, deque[int]] = {}
        self._here: Counter[int] = Counter()
        self._room = batch

    def __iter__(self) -> Iterator[int]:
        upcoming = deque(range(len(self._sizes)))
        queues: dict[int, deque[int]] = {group: deque() for group in self._large}
        for number in upcoming if queues else ():
            if self._group_of[number] in queues:
                queues[self._group_of[number]].append(number)
        taken: set[int] = set()
        while len(taken) < len(self._sizes):
            part: int | None = self._urgent(queues, taken)
            if part is None:
                part = self._waiting_part(taken)
            while part is None and upcoming:
                number = upcoming.popleft()
                if number in taken:
                    continue
                if self._fits(number):
                    part = number
                else:
                    self._waiting.setdefault(self._group_of[number], deque()).append(number)
            if part is None:  # every part that is left would be one too many here
                part = self._waiting_part(taken, fits=False)
            assert part is not None
            taken.add(part)
            self._take(part)
            yield part

    def _fits(self, part: int) -> bool:
        group = self._group_of[part]
        return self._here[group] + min(self._sizes[part], self._room) <= self._most * self._parts[group]

    def _urgent(self, queues: dict[int, deque[int]], taken: set[int]) -> int | None:
        """Return a part of a large group that the batches after this one have no room for, or None."""
        for group, queue in queues.items():
            while queue and queue[0] in taken:
                queue.popleft()
            if (
                queue
                and self._left[group] > self._parts[group] * (self._batches - 1)
                and self._fits(queue[0])
            ):
                return queue[0]
        return None

    def _waiting_part(self, taken: set[int], *, fits: bool = True) -> int | None:
        """Return the first part of the first group that waits and fits, or None."""
        for group in list(self._waiting):
            queue = self._waiting[group]
            while queue and queue[0] in taken:
                queue.popleft()
            if not queue:
                del self._waiting[group]
            elif not fits or self._fits(queue[0]):
                return queue.popleft()
        return None

    def _take(self, part: int) -> None:
        """Count a part in this batch, and go on to the next batch if this one is full."""
        group, size = self._group_of[part], self._sizes[part]
        self._left[group] -= 1
        self._here[group] += min(size, self._room)
        self._room -= size
        if self._room <= 0:
            self._here = Counter({group: -self._room} if self._room < 0 else {})
            self._room += self._batch
            self._batches -= 1
