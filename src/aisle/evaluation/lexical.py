"""BM25, the lexical baseline every embedding model has to beat."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import EvaluationError

__all__ = ["Bm25Index", "to_run"]

_WORD = re.compile(r"\w\w+")
"""Runs of two or more letters, digits or underscores, in any script."""


@dataclass(frozen=True)
class Bm25Index:
    """BM25 over a list of texts, in the Lucene variant with k1 = 1.5 and b = 0.75.

    score(q, d) = sum over words t of q of  idf(t) * tf / (tf + k1 * (1 - b + b * len(d) / mean len))
    with idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5)) (Robertson and Zaragoza, The Probabilistic
    Relevance Framework: BM25 and Beyond, 2009; the idf that Lucene uses is never negative).

    Words are case-folded and NFKC-normalised, of two characters or more, without English stop
    words and without stemming. Build one with `Bm25Index.build`.
    """

    texts: int
    _bm25: Any
    _stop_words: frozenset[str]

    @classmethod
    def build(cls, texts: Sequence[str]) -> Bm25Index:
        """Return the index of `texts`; rows of a ranking are positions in this list.

        Raises:
            EvaluationError: there is no text, or no text has a word to index.
        """
        if not texts:
            raise EvaluationError("BM25 needs at least one text, found none; check the catalogue")
        bm25s = _bm25s()
        stop_words = frozenset(bm25s.stopwords.STOPWORDS_EN)
        vocabulary: dict[str, int] = {}
        token_ids = [
            [vocabulary.setdefault(word, len(vocabulary)) for word in _words(text, stop_words)]
            for text in texts
        ]
        if not vocabulary:
            raise EvaluationError(
                f"BM25 needs words of two or more characters, and none of the {len(texts)} texts has one "
                "that is not an English stop word; check the catalogue's text template"
            )
        bm25 = bm25s.BM25(k1=1.5, b=0.75, method="lucene", backend="numpy")
        bm25.index((token_ids, vocabulary), show_progress=False)
        return cls(len(texts), bm25, stop_words)

    def rank(
        self, queries: Sequence[str], *, top_k: int
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
        """Return rows and scores per query, best first; equal scores in row order.

        Only texts that share a word with the query are ranked, so a ranking may be shorter than
        `top_k`, and is empty where no text knows any of the query's words.

        Args:
            queries: texts to search for.
            top_k: most rows per query, at least 1.

        Raises:
            EvaluationError: `top_k` is below 1.
        """
        if top_k < 1:
            raise EvaluationError(f"top_k must be at least 1, found {top_k}")
        rankings = [self._rank_one(query, top_k) for query in queries]
        return [rows for rows, _ in rankings], [scores for _, scores in rankings]

    def _rank_one(self, query: str, top_k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        known = self._bm25.get_tokens_ids(_words(query, self._stop_words))
        if not known:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        scores: NDArray[np.float32] = self._bm25.get_scores_from_ids(known)
        rows = np.flatnonzero(scores > 0)
        if len(rows) > top_k:
            # keeps every row that ties with the last place, so that row order decides among them
            last = np.partition(scores[rows], -top_k)[-top_k]
            rows = rows[scores[rows] >= last]
        rows = rows[np.argsort(-scores[rows], kind="stable")][:top_k]
        return rows, scores[rows]


def to_run(
    query_ids: Sequence[str],
    product_ids: Sequence[str],
    rows: Iterable[Iterable[int]],
    scores: Iterable[Iterable[float]],
) -> dict[str, dict[str, float]]:
    """Return {query id: {product id: score}} from rows and scores; rows below 0 are padding.

    Args:
        query_ids: (queries,) distinct.
        product_ids: (products,) id of each row.
        rows: per query, rows of the ranked products.
        scores: per query, their scores, higher is better.

    Raises:
        EvaluationError: the lengths differ, or a query id comes twice.
    """
    rows, scores = list(rows), list(scores)
    if not len(query_ids) == len(rows) == len(scores):
        raise EvaluationError(
            f"a run needs one ranking per query, found {len(query_ids)} query ids, {len(rows)} lists of rows "
            f"and {len(scores)} lists of scores"
        )
    if len(set(query_ids)) < len(query_ids):
        twice = next(query for i, query in enumerate(query_ids) if query in query_ids[:i])
        raise EvaluationError(f"query ids must be distinct, found {twice!r} twice")
    return {
        query_id: {
            product_ids[row]: float(score)
            for row, score in zip(query_rows, query_scores, strict=True)
            if row >= 0
        }
        for query_id, query_rows, query_scores in zip(query_ids, rows, scores, strict=True)
    }


def _words(text: str, stop_words: frozenset[str]) -> list[str]:
    folded = unicodedata.normalize("NFKC", text.casefold())
    return [word for word in _WORD.findall(folded) if word not in stop_words]


def _bm25s() -> Any:
    import bm25s

    # it sets its logger to DEBUG on import, which fills the log of whoever configured the root logger
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s
