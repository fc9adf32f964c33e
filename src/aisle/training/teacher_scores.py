"""Scores of a teacher, which reads a query and a product together: each pair is scored once, and cached.

The cache is that of embeddings with vectors of a single component. Its folder belongs to a single teacher; a
key is a hash of both texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aisle.data.adjacency import Ints
from aisle.errors import TrainingError
from aisle.io.embedding_cache import KEY_BYTES, MISSING, EmbeddingCache, key_of
from aisle.training.distributed import wait_for_all
from aisle.training.out_of_memory import advising_on_memory

PAIRS_AT_A_TIME = 1024
"""Pairs that the teacher gets at a time, of similar lengths."""
MOST_SECONDS = 10.0
"""Longest time in seconds to score before the scores are written: an interrupted run loses no more."""
ADVICE = "Give a smaller --teacher, or one that was trained with a lower --max_length"


class Bar(Protocol):
    """A progress bar."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Advance the bar by a number of pairs."""


@dataclass(frozen=True)
class ScoredTexts:
    """Pairs to score, by the numbers of their texts.

    Args:
        query_texts: Texts of the queries, by number; None for a number that is no query.
        product_texts: Texts of the products, by number; None for a number that is no product.
        queries: (pairs,) int64, number of each pair's query.
        products: (pairs,) int64, number of each pair's product.
    """

    query_texts: Sequence[str | None]
    product_texts: Sequence[str | None]
    queries: Ints
    products: Ints

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, row: int) -> tuple[str, str]:
        return str(self.query_texts[self.queries[row]]), str(self.product_texts[self.products[row]])

    def lengths(self) -> Ints:
        """Return the number of characters of each pair."""
        of_queries, of_products = (
            np.array([len(text or "") for text in texts], dtype=np.int64)
            for texts in (self.query_texts, self.product_texts)
        )
        lengths: Ints = of_queries[self.queries] + of_products[self.products]
        return lengths

    def keys(self) -> npt.NDArray[np.bytes_]:
        """Return the key of each pair: a hash of the hashes of both texts, (pairs,) S16."""
        of_queries, of_products = (
            [key_of((text or "").encode(errors="surrogatepass")) for text in texts]
            for texts in (self.query_texts, self.product_texts)
        )
        numbers = zip(self.queries.tolist(), self.products.tolist(), strict=True)
        keys = b"".join(key_of(of_queries[query] + of_products[product]) for query, product in numbers)
        return np.frombuffer(keys, dtype=f"S{KEY_BYTES}")


def teacher_scores(
    score: Callable[[Sequence[tuple[str, str]]], npt.NDArray[np.float32]],
    cache: EmbeddingCache,
    pairs: ScoredTexts,
    *,
    accelerator: Any,
    log: Callable[[str], None],
    progress: Callable[[str, int], AbstractContextManager[Bar]],
) -> npt.NDArray[np.float32]:
    """Return the teacher's score of each pair, (pairs,) float32; those that the cache lacks are computed.

    Each of n ranks is responsible for every n-th pair; call on all ranks.

    Args:
        score: Function that returns the teacher's score of each pair of texts.
        cache: Cache of this teacher's scores.
        pairs: Pairs to score.
        accelerator: Accelerator of the run.
        log: Logs messages for the user.
        progress: Function that returns a progress bar, given its label and the number of pairs.

    Raises:
        TrainingError: The cache cannot be written, a score is not finite, or memory ran out.
    """
    keys = pairs.keys()
    _, first = np.unique(keys, return_index=True)
    by_length = first[np.argsort(-pairs.lengths()[first], kind="stable")]
    missing = cache.find(keys[by_length]) == MISSING
    for path in cache.damaged:
        log(f"warning: {path}: is no whole file of scores, and is not read; remove it")
    log(f"teacher: {len(by_length):,} pairs; scoring the {missing.sum():,} that {cache.folder} lacks")
    # The share of a rank does not depend on what is missing, which other runs may be adding just now.
    turns = np.arange(len(by_length)) % accelerator.num_processes
    mine = by_length[missing & (turns == accelerator.process_index)]
    started = time.monotonic()
    with advising_on_memory("scoring pairs with the teacher", ADVICE), progress("scoring", len(mine)) as bar:
        for rows, found in _scored(score, pairs, mine, bar):
            _write(cache, keys[rows], found)
    wait_for_all(accelerator)
    if missing.any():
        seconds = max(time.monotonic() - started, 1e-9)
        log(f"teacher: {missing.sum():,} pairs in {seconds:.0f} s, {missing.sum() / seconds:,.0f} pairs/s")
    if accelerator.process_index == 0:
        _compact(cache, log)
    cache.refresh()
    places = cache.find(keys)
    if (places == MISSING).any():
        raise TrainingError(f"{cache.folder}: scores that were just written are gone; start the run again")
    return cache.take(places)[:, 0]


def _scored(
    score: Callable[[Sequence[tuple[str, str]]], npt.NDArray[np.float32]],
    pairs: ScoredTexts,
    numbers: Ints,
    bar: Bar,
) -> Iterator[tuple[Ints, npt.NDArray[np.float32]]]:
    """Yield pairs, by number, with their scores, about every `MOST_SECONDS`."""
    done, found, started = 0, [np.empty(0, np.float32)], time.monotonic()
    for start in range(0, len(numbers), PAIRS_AT_A_TIME):
        rows = numbers[start : start + PAIRS_AT_A_TIME]
        scores = np.asarray(score([pairs[row] for row in rows.tolist()]), np.float32)
        if not np.isfinite(scores).all():
            wrong = pairs[int(rows[np.flatnonzero(~np.isfinite(scores))[0]])]
            raise TrainingError(f"--teacher: the score of {wrong!r:.200} is not a finite number")
        found.append(scores)
        bar.advance(len(rows))
        if time.monotonic() - started >= MOST_SECONDS:
            yield numbers[done : start + len(rows)], np.concatenate(found)
            done, found, started = start + len(rows), [np.empty(0, np.float32)], time.monotonic()
    if done < len(numbers):
        yield numbers[done:], np.concatenate(found)


def _write(cache: EmbeddingCache, keys: npt.NDArray[np.bytes_], scores: npt.NDArray[np.float32]) -> None:
    try:
        cache.add(keys, scores[:, None])
    except OSError as error:
        raise TrainingError(
            f"{cache.folder}: the teacher's scores cannot be written: {error}; free some space, or give "
            "another folder with --teacher_cache. Scores written before are kept"
        ) from None


def _compact(cache: EmbeddingCache, log: Callable[[str], None]) -> None:
    try:
        if cache.compact():
            log(f"merged the small files of scores in {cache.folder}")
    except OSError as error:
        log(f"warning: {cache.folder}: its small files cannot be merged ({error}); they are still read")
