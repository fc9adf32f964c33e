"""Queue of the parts of shards that are being embedded; a thread writes each shard once it is complete."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from aisle.text.distinct_tokens import DistinctTokens

Embeddings = npt.NDArray[np.float32]
Marks = npt.NDArray[np.uint8]
Number = TypeVar("Number", np.float32, np.uint8)


@dataclass(frozen=True)
class ShardPart:
    """Texts of a shard that are tokenised together.

    Args:
        shard: Number of the shard.
        rows: Rows of the texts in the catalogue.
        last: Whether they complete the shard.
    """

    shard: int
    rows: npt.NDArray[np.int64]
    last: bool


def parts_of(shards: Mapping[int, npt.NDArray[np.int64]], texts_at_a_time: int | None) -> Iterator[ShardPart]:
    """Yield the parts of shards, given the rows of each; with None, a shard is one part."""
    for shard, rows in shards.items():
        size = texts_at_a_time or len(rows)
        for start in range(0, len(rows), size):
            yield ShardPart(shard, rows[start : start + size], last=start + size >= len(rows))


class ShardQueue:
    """Collect the embeddings of parts, and write each complete shard in a thread.

    Leaving the context waits until all shards are written.

    Args:
        write: Function that writes a shard, given its number, embeddings and marks.
    """

    def __init__(self, write: Callable[[int, Embeddings, Marks], None]) -> None:
        self._write = write
        self._expected: deque[tuple[ShardPart, Marks]] = deque()
        self._embeddings: list[Embeddings] = []
        self._marks: list[Marks] = []
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write")
        self._writing: Future[None] | None = None

    def __enter__(self) -> ShardQueue:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._worker.shutdown()  # after an error too: the next build keeps the shard that is being written
        if kind is None:
            self._wait()

    def noted(self, tokenised: Iterable[tuple[ShardPart, DistinctTokens]]) -> Iterator[DistinctTokens]:
        """Yield the tokens of parts, and note the parts: their embeddings are due in this order."""
        for part, tokens in tokenised:
            self._expected.append((part, tokens.marks))
            yield tokens

    def add(self, embeddings: Embeddings) -> None:
        """Take the embeddings of the next part that is due.

        Raises:
            OSError: The shard before cannot be written.
        """
        part, marks = self._expected.popleft()
        self._embeddings.append(embeddings)
        self._marks.append(marks)
        if part.last:
            self._wait()  # memory holds at most one shard that waits to be written
            shard = part.shard, _joined(self._embeddings), _joined(self._marks)
            self._writing = self._worker.submit(self._write, *shard)
            self._embeddings, self._marks = [], []

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None


def _joined(parts: list[npt.NDArray[Number]]) -> npt.NDArray[Number]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
