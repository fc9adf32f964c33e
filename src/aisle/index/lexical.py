"""BM25 over the products: the lexical half of hybrid search, and the baseline an embedding has to beat."""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aisle.errors import DataError, IndexIntegrityError, SearchError
from aisle.index.exact import Rows, Scores
from aisle.index.store import read_array, write_array
from aisle.sequences import as_sequence

__all__ = ["LEXICAL_FILES", "Bm25Index", "best_rows"]

SHAPE_FILE = "bm25.json"
ARRAY_TYPES = {
    "scores": "float32",
    "rows": "int32",
    "posting_starts": "int64",
    "words": "uint8",
    "word_starts": "int64",
}
LEXICAL_FILES = (SHAPE_FILE, *(f"{name}.npy" for name in ARRAY_TYPES))

K1, B = 1.5, 0.75
_WORD = re.compile(r"\w\w+")
"""Runs of two or more letters, digits or underscores, in any script."""


@dataclass(frozen=True, eq=False)
class Bm25Index:
    """BM25 over a list of texts, in the Lucene variant with k1 = 1.5 and b = 0.75.

    score(q, d) = sum over words t of q of  idf(t) * tf / (tf + k1 * (1 - b + b * len(d) / mean len))
    with idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5)) (Robertson and Zaragoza, The Probabilistic
    Relevance Framework: BM25 and Beyond, 2009; the idf that Lucene uses is never negative).

    Words are case-folded and NFKC-normalised, of two characters or more, without English stop
    words and without stemming. Build one with `Bm25Index.build`, which is the only user of bm25s.
    The score of every word in every text is stored (Lù, BM25S, https://arxiv.org/abs/2407.03618),
    so that a query only adds them up.
    """

    texts: int
    """Number of texts; rows are positions among them."""
    scores: Scores
    """(postings,) score of a word in a text, word by word."""
    rows: npt.NDArray[np.int32]
    """(postings,) row of that text, ascending within a word."""
    posting_starts: npt.NDArray[np.int64]
    """(words + 1,) first posting of each word."""
    words: npt.NDArray[np.uint8]
    """(bytes,) the words in sorted order, UTF-8, one after the other."""
    word_starts: npt.NDArray[np.int64]
    """(words + 1,) first byte of each word."""

    @classmethod
    def build(cls, texts: Iterable[str]) -> Bm25Index:
        """Return the index of `texts`, which are read once; texts without a word are found by no query.

        Raises:
            DataError: there is no text.
        """
        tokens, vocabulary = _tokenize(texts)
        if not len(tokens):
            raise DataError("BM25 needs at least one text, found none; check the catalogue")
        encoded = [word.encode() for word in vocabulary]
        postings = _postings(tokens, len(vocabulary))
        return cls(
            texts=len(tokens),
            scores=postings["data"],
            rows=postings["indices"],
            posting_starts=postings["indptr"],
            words=np.frombuffer(b"".join(encoded), np.uint8),
            word_starts=_starts(np.fromiter(map(len, encoded), np.int64, len(encoded))),
        )

    def save(self, folder: Path) -> None:
        """Write `LEXICAL_FILES` to `folder`, the same bytes for the same texts.

        Raises:
            OSError: a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAY_TYPES:
            write_array(folder / f"{name}.npy", getattr(self, name))
        sizes = {name: len(getattr(self, name)) for name in ARRAY_TYPES}
        shape = {"texts": self.texts, "k1": K1, "b": B, **sizes}
        (folder / SHAPE_FILE).write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Bm25Index:
        """Return the index that `save` wrote, memory-mapped.

        Raises:
            IndexIntegrityError: a file is missing, or is not what `save` wrote.
        """
        shape = _read_shape(folder)
        arrays = {}
        for name, dtype in ARRAY_TYPES.items():
            path = folder / f"{name}.npy"
            if not path.is_file():
                raise IndexIntegrityError(f"{path}: missing; restore the file or build the index again")
            arrays[name] = read_array(path, shape=(shape[name],), dtype=dtype)
        _check_ends(folder, arrays)
        return cls(texts=shape["texts"], **arrays)

    def score(self, query: str) -> Scores:
        """Return the (texts,) BM25 score of every text, 0 where it has no word of the query.

        A word that the query repeats counts as often.
        """
        total = np.zeros(self.texts, np.float32)
        for word in _words(query):
            found = self._postings_of(word)
            total[self.rows[found]] += self.scores[found]  # a row comes once per word
        return total

    def rank(
        self,
        queries: Iterable[str],
        *,
        top_k: int,
        tie_ranks: Rows | None = None,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[list[Rows], list[Scores]]:
        """Return rows and scores per query, best first.

        Only texts that share a word with the query are ranked, so a ranking may be shorter than
        `top_k`, and is empty where no text knows any of the query's words.

        Args:
            queries: texts to search for.
            top_k: most rows per query, at least 1.
            tie_ranks: (texts,) order among equal scores, lowest first; None is the order of the rows.
            allowed: (texts,) rows that may be ranked; None is all of them.

        Raises:
            SearchError: `top_k` is below 1.
        """
        if top_k < 1:
            raise SearchError(f"top_k: must be at least 1, found {top_k}")
        rankings = [
            best_rows(self.score(query), top_k=top_k, tie_ranks=tie_ranks, allowed=allowed)
            for query in as_sequence(queries, "queries", SearchError)
        ]
        return [rows for rows, _ in rankings], [scores for _, scores in rankings]

    def _postings_of(self, word: str) -> slice:
        encoded, count = word.encode(), len(self.word_starts) - 1
        at = bisect_left(range(count), encoded, key=self._word)
        if at == count or self._word(at) != encoded:
            return slice(0, 0)
        return slice(int(self.posting_starts[at]), int(self.posting_starts[at + 1]))

    def _word(self, at: int) -> bytes:
        return self.words[self.word_starts[at] : self.word_starts[at + 1]].tobytes()


def best_rows(
    scores: Scores,
    *,
    top_k: int,
    tie_ranks: Rows | None = None,
    allowed: npt.NDArray[np.bool_] | None = None,
) -> tuple[Rows, Scores]:
    """Return rows and scores of the best `top_k` of (texts,) scores above 0, best first.

    Args:
        scores: (texts,) BM25 scores of one query.
        top_k: most rows to return.
        tie_ranks: (texts,) order among equal scores, lowest first; None is the order of the rows.
        allowed: (texts,) rows that may be returned; None is all of them.
    """
    rows = np.flatnonzero(scores > 0 if allowed is None else (scores > 0) & allowed)
    if len(rows) > top_k:
        # keeps every row that ties with the last place: the order among equals decides which of them stays
        last = np.partition(scores[rows], -top_k)[-top_k]
        rows = rows[scores[rows] >= last]
    order = np.lexsort((rows if tie_ranks is None else tie_ranks[rows], -scores[rows]))
    rows = rows[order[:top_k]]
    return rows, scores[rows]


@dataclass(frozen=True, eq=False)
class _Tokens:
    """The words of each text as numbers, in two flat arrays: lists of them take ten times the memory."""

    numbers: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for start, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            yield self.numbers[start:end].tolist()


def _tokenize(texts: Iterable[str]) -> tuple[_Tokens, list[str]]:
    """Return the words of each text as places in the sorted vocabulary, and that vocabulary."""
    stop_words = frozenset(_bm25s().stopwords.STOPWORDS_EN)
    seen: dict[str, int] = {}
    numbers, lengths = array("i"), array("q")
    for text in texts:
        before = len(numbers)
        numbers.extend(seen.setdefault(word, len(seen)) for word in _words(text) if word not in stop_words)
        lengths.append(len(numbers) - before)
    vocabulary = sorted(seen)
    place = np.empty(len(seen), np.int32)
    place[[seen[word] for word in vocabulary]] = np.arange(len(seen), dtype=np.int32)
    in_order = place[np.frombuffer(numbers, np.int32)] if numbers else np.empty(0, np.int32)
    return _Tokens(in_order, _starts(np.array(lengths, np.int64))), vocabulary


def _postings(tokens: _Tokens, words: int) -> Mapping[str, Any]:
    """Return bm25s's sparse matrix of scores, (texts, words) by columns."""
    if not words:  # bm25s divides by the mean length
        return {
            "data": np.empty(0, np.float32),
            "indices": np.empty(0, np.int32),
            "indptr": np.zeros(1, np.int64),
        }
    bm25 = _bm25s().BM25(k1=K1, b=B, method="lucene", dtype="float32", int_dtype="int32", backend="numpy")
    matrix: Mapping[str, Any] = bm25.build_index_from_ids(range(words), tokens, show_progress=False)
    return matrix


def _starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (n + 1,) where each of n runs begins, and where the last ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text.casefold()))


def _read_shape(folder: Path) -> dict[str, int]:
    path = folder / SHAPE_FILE
    try:
        shape = json.loads(path.read_bytes())
        sizes = {name: shape[name] for name in ("texts", *ARRAY_TYPES)}
        whole = all(type(size) is int and size >= 0 for size in sizes.values())
        if not whole or (shape["k1"], shape["b"]) != (K1, B):
            raise ValueError(f"found {shape}")
    except FileNotFoundError:
        raise IndexIntegrityError(f"{path}: missing; restore the file or build the index again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise IndexIntegrityError(
            f"{path}: must be the sizes of a BM25 index with k1 {K1} and b {B}: {error}; build the index "
            "again"
        ) from None
    return sizes


def _check_ends(folder: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise unless the starts fit what they point into; the checksums of the manifest guard the rest."""
    for starts, ends in (("posting_starts", ("scores", "rows")), ("word_starts", ("words",))):
        found = arrays[starts]
        sizes = {len(arrays[name]) for name in ends}
        if len(found) != len(arrays["word_starts"]) or not len(found) or {int(found[-1])} != sizes:
            raise IndexIntegrityError(
                f"{folder / starts}.npy: must have one start per word and end at {sorted(sizes)}, found "
                f"{len(found)} starts and the end {found[-1:].tolist()}; build the index again"
            )


def _bm25s() -> Any:
    import bm25s

    # it sets its logger to DEBUG on import, which fills the log of whoever configured the root logger
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s
