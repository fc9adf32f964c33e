"""Rank the products of a catalogue for queries: by words, by embeddings, by both, or at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Protocol

import numpy as np

from aisle.data.digests import text_digest
from aisle.index.lexical import Bm25Index, best_rows
from aisle.index.scoring import FloatArray, Rows, Scores, best_per_query, exact_search, row_scores
from aisle.index.search_index import SearchIndex
from aisle.io.mapped_pages import release_pages

__all__ = ["Bm25Ranking", "BothRankings", "DenseRanking", "RandomRanking", "Ranked", "Ranking"]

PART_ROWS = 131_072
"""Products to compare with at a time: 192 MiB of 384 components in float32."""
RELEASED_QUERIES = 8
"""Queries whose products are read before the pages are released: Linux maps 64 KiB for a row of 1.5 KiB."""


@dataclass(frozen=True)
class Ranked:
    """Products of a query.

    Attributes:
        rows: Rows of the catalogue, best first.
        scores: Score of each; in the order of `rows`, except that two rankings may take turns.
        positive_scores: Row of each positive to its score.
    """

    rows: Rows
    scores: Scores
    positive_scores: dict[int, float]


class Ranking(Protocol):
    """A way to rank products."""

    def rank(self, queries: Sequence[str], positives: Sequence[Rows]) -> Iterator[Ranked]:
        """Yield the best products of each query.

        Args:
            queries: Texts of queries.
            positives: Rows of each query's positives, to score them too.
        """


@dataclass(frozen=True)
class Bm25Ranking:
    """Rank by words.

    Attributes:
        lexical: BM25 over the texts.
        tie_ranks: (count,) order among equal scores, lowest first.
        depth: Most products of a query; fewer if fewer have a word of the query.
    """

    lexical: Bm25Index
    tie_ranks: Rows
    depth: int

    def rank(self, queries: Sequence[str], positives: Sequence[Rows]) -> Iterator[Ranked]:
        """Yield the best products of each query with their BM25 scores."""
        for query, right in zip(queries, positives, strict=True):
            scores = self.lexical.score(query)
            found = best_rows(scores, top_k=self.depth, tie_ranks=self.tie_ranks)
            yield Ranked(*found, dict(zip(right.tolist(), scores[right].tolist(), strict=True)))


@dataclass(frozen=True)
class RandomRanking:
    """Draw products at random, for negatives to compare hard negatives with; every score is 0.

    Attributes:
        count: Number of products in the catalogue.
        depth: Most products of a query.
        seed: Seed of the draws, which do not depend on other queries.
    """

    count: int
    depth: int
    seed: int

    def rank(self, queries: Sequence[str], positives: Sequence[Rows]) -> Iterator[Ranked]:
        """Yield products of each query."""
        for query, right in zip(queries, positives, strict=True):
            digest = int.from_bytes(text_digest(f"{self.seed}\0{query}"), "little")
            rows = np.random.default_rng(digest).choice(
                self.count, size=min(self.depth, self.count), replace=False
            )
            yield Ranked(rows, np.zeros(len(rows), np.float32), dict.fromkeys(right.tolist(), 0.0))


@dataclass(frozen=True)
class DenseRanking:
    """Rank by the cosine of embeddings.

    Attributes:
        embeddings: (count, dim) embeddings of the catalogue, unit L2 norm, memory-mapped.
        encode: Function of queries that returns their embeddings, (queries, dim) float32, unit L2 norm.
        tie_ranks: (count,) order among equal scores, lowest first.
        depth: Most products of a query.
        graph: Index to search with its graph; None compares with every product.
    """

    embeddings: FloatArray
    encode: Callable[[Sequence[str]], Scores]
    tie_ranks: Rows
    depth: int
    graph: SearchIndex | None = None

    def rank(self, queries: Sequence[str], positives: Sequence[Rows]) -> Iterator[Ranked]:
        """Yield the best products of each query with their cosines."""
        return self.rank_encoded(self.encode(queries), positives)

    def rank_encoded(self, asked: Scores, positives: Sequence[Rows]) -> Iterator[Ranked]:
        """Yield the best products of each query, given the (queries, dim) embeddings of the queries."""
        top_k = min(self.depth, len(self.embeddings))
        if self.graph is None:
            rows = self._exactly(asked, top_k=top_k)
        else:
            rows = self.graph.search(asked, top_k=top_k).rows
        for number, (found, query, right) in enumerate(zip(rows, asked, positives, strict=True)):
            if number % RELEASED_QUERIES == 0:
                release_pages(self.embeddings)
            yield Ranked(found, self.scores(query, found), self._of_positives(query, right))

    def _exactly(self, asked: Scores, *, top_k: int) -> Rows:
        """Return the (queries, top_k) nearest rows, of parts of the catalogue that are in memory in turn.

        A score does not depend on the parts (see `exact_search`), so neither does the order.
        """
        best = np.empty((len(asked), 0), np.int64), np.empty((len(asked), 0), np.float32)
        for start in range(0, len(self.embeddings), PART_ROWS):
            part = self.embeddings[start : start + PART_ROWS]
            ranks = self.tie_ranks[start : start + PART_ROWS]
            rows, scores = exact_search(part, asked, top_k=min(top_k, len(part)), tie_ranks=ranks)
            release_pages(self.embeddings)
            both = np.hstack([best[0], rows + start]), np.hstack([best[1], scores])
            best = best_per_query(
                np.repeat(np.arange(len(asked)), both[0].shape[1]),
                both[0].ravel(),
                both[1].ravel(),
                tie_ranks=self.tie_ranks,
                top_k=top_k,
                queries=len(asked),
            )
        return best[0]

    def scores(self, query: Scores, rows: Rows) -> Scores:
        """Return the cosines of a query, (dim,), and products."""
        found: Scores = row_scores(self.embeddings, rows[None], query[None])[0]
        return found

    def _of_positives(self, query: Scores, rows: Rows) -> dict[int, float]:
        return dict(zip(rows.tolist(), self.scores(query, rows).tolist(), strict=True))


@dataclass(frozen=True)
class BothRankings:
    """Take turns between two rankings: the best by embeddings, the best by words, the second best, and so on.

    A product that both find has the better of its two places. All scores are cosines.
    """

    dense: DenseRanking
    lexical: Bm25Ranking

    def rank(self, queries: Sequence[str], positives: Sequence[Rows]) -> Iterator[Ranked]:
        """Yield the products of both rankings for each query with their cosines."""
        asked = self.dense.encode(queries)
        found = zip(
            self.dense.rank_encoded(asked, positives),
            self.lexical.rank(queries, positives),
            asked,
            strict=True,
        )
        for by_embedding, by_words, query in found:
            rows = take_turns(by_embedding.rows, by_words.rows)
            yield Ranked(rows, self.dense.scores(query, rows), by_embedding.positive_scores)


def take_turns(first: Rows, second: Rows) -> Rows:
    """Return the rows of two rankings in turns, each row once, at the better of its places."""
    turns = chain.from_iterable(zip_longest(first.tolist(), second.tolist()))
    return np.array(list(dict.fromkeys(row for row in turns if row is not None)), np.int64)
