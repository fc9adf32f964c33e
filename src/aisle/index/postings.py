"""Words of many texts as numbers, and the BM25 score of each word in each text, by bm25s.

`aisle.index.lexical` writes its own files for them. The files of bm25s give the same scores, but take 0.9 s
and 100 MiB to load for 430,000 words, because their vocabulary is a JSON dict; ours are memory-mapped in
12 ms and 1 MiB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aisle.index.analyser import Analyser
from aisle.index.languages import load_bm25s

__all__ = ["Tokens", "run_starts", "tokenize", "word_scores"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Words of each text as numbers, in two flat arrays; lists would take ten times the memory."""

    numbers: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for start, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            yield self.numbers[start:end].tolist()


def tokenize(texts: Iterable[str], analyser: Analyser) -> tuple[Tokens, list[str]]:
    """Return the words of each text as positions in the sorted vocabulary, and the vocabulary."""
    seen: dict[str, int] = {}
    numbers, lengths = array("i"), array("q")
    for text in texts:
        before = len(numbers)
        numbers.extend(seen.setdefault(word, len(seen)) for word in analyser.terms_of_text(text))
        lengths.append(len(numbers) - before)
    vocabulary = sorted(seen)
    place = np.empty(len(seen), np.int32)
    place[[seen[word] for word in vocabulary]] = np.arange(len(seen), dtype=np.int32)
    in_order = place[np.frombuffer(numbers, np.int32)] if numbers else np.empty(0, np.int32)
    return Tokens(in_order, run_starts(np.array(lengths, np.int64))), vocabulary


def word_scores(tokens: Tokens, words: int, *, k1: float, b: float) -> Mapping[str, Any]:
    """Return the sparse matrix of scores by bm25s: (texts, words), stored by columns."""
    if not words:  # bm25s divides by the mean length
        return {
            "data": np.empty(0, np.float32),
            "indices": np.empty(0, np.int32),
            "indptr": np.zeros(1, np.int64),
        }
    bm25 = load_bm25s().BM25(k1=k1, b=b, method="lucene", dtype="float32", int_dtype="int32", backend="numpy")
    matrix: Mapping[str, Any] = bm25.build_index_from_ids(range(words), tokens, show_progress=False)
    return matrix


def run_starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the start of each of n runs, and the end of the last run, (n + 1,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
