"""The rows of a retrieval evaluation: each system's ranking of every query, a chunk of queries at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.index import SearchIndex, SearchResult, exact_search
from aisle.index.fusion import Fusion
from aisle.index.hybrid_search import candidate_depth, fuse_dense, search_hybrid, search_lexical
from aisle.models.encoder import TorchEncoder
from aisle.types.columns import ID_COLUMN

CHUNK_QUERIES = 1024
"""Queries embedded and searched at a time: 100 answers of each, and their embeddings, are a few MiB."""
GRAPH_DEPTH = 10
"""Answers that the graph is asked for: a first page, as `query` asks for it."""
BY_GRAPH = " by the graph"
"""Ends the name of a row's rankings through the graph, which are measured but are no row of the table."""

Embeddings = npt.NDArray[np.float32]
Answers = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""(queries, top_k) rows of an index, -1 after the last of a short answer, and their scores."""


@dataclass(frozen=True, eq=False)
class Ranker:
    """One or more systems over the products of one index.

    Args:
        product_ids: (products,) id of each row of that index.
        answer: from the texts of some queries to their answers, by the row's name.
    """

    product_ids: pa.ChunkedArray
    answer: Callable[[Sequence[str]], Mapping[str, Answers]]


@dataclass(frozen=True, eq=False)
class Run(Mapping[str, Mapping[str, float]]):
    """{query id: {product id: score}} that holds row numbers: 12 bytes an answer, where a dict takes 150.

    Args:
        product_ids: (products,) id of each row of the index.
        places: query id -> its place among the answers.
        rows: (queries, top_k) rows of the index, best first; -1 after the last of a short answer.
        scores: (queries, top_k) float32.
    """

    product_ids: pa.ChunkedArray
    places: Mapping[str, int]
    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    def __getitem__(self, query_id: str) -> dict[str, float]:
        """Return the answers to a query, best first."""
        place = self.places[query_id]
        rows = self.rows[place]
        answered = int(np.count_nonzero(rows >= 0))
        ids = self.product_ids.take(pa.array(rows[:answered])).to_pylist()
        return dict(zip(ids, self.scores[place, :answered].tolist(), strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def rank_all(
    rankers: Sequence[Ranker],
    queries: Mapping[str, str],
    *,
    chunk_queries: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Run]:
    """Return the run of each row.

    Args:
        rankers: that answer; a ranker may answer for several rows.
        queries: query id -> text.
        chunk_queries: queries answered at a time, `CHUNK_QUERIES` when not given; changes memory, not the
            rankings.
        on_progress: called with the number of queries that one ranker has answered.

    Raises:
        SearchError: an index cannot answer as asked.
    """
    step = chunk_queries or CHUNK_QUERIES
    texts = list(queries.values())
    places = {query_id: place for place, query_id in enumerate(queries)}
    placed: dict[str, Answers] = {}
    ids: dict[str, pa.ChunkedArray] = {}
    for start in range(0, len(texts), step):
        chunk = texts[start : start + step]
        for ranker in rankers:
            for name, found in ranker.answer(chunk).items():
                if name not in placed:
                    shape = len(texts), found[0].shape[1]
                    placed[name] = np.empty(shape, np.int64), np.empty(shape, np.float32)
                    ids[name] = ranker.product_ids
                rows, scores = placed[name]
                rows[start : start + step], scores[start : start + step] = found
            if on_progress is not None:
                on_progress(len(chunk))
    return {name: Run(ids[name], places, *answers) for name, answers in placed.items()}


def _answers(found: SearchResult) -> Answers:
    return found.rows, found.scores


def lexical_ranker(index: SearchIndex, *, name: str, top_k: int) -> Ranker:
    """Return the ranker of a row by words, over the texts of an index."""

    def answer(texts: Sequence[str]) -> dict[str, Answers]:
        return {name: _answers(search_lexical(index, texts, top_k=top_k))}

    return Ranker(index.products.column(ID_COLUMN), answer)


def index_ranker(
    index: SearchIndex,
    encoder: TorchEncoder,
    *,
    dense: str,
    hybrid: str | None,
    top_k: int,
    ef_search: int | None,
    fusion: Fusion,
    weight: float | None,
    graph: bool,
) -> Ranker:
    """Return the ranker of an index's rows by its embeddings, which embeds a query once for all of them.

    Every row compares with all products, so that rows differ by what they rank by alone.

    Args:
        index: to search.
        encoder: that made it.
        dense: name of the row by embeddings.
        hybrid: name of the row by both; None leaves it out.
        top_k: products per query.
        ef_search: candidates kept while following the graph; None is the index's own.
        fusion: how the hybrid row is made of the two.
        weight: of the dense side of it; None is the index's own.
        graph: rank the rows by embeddings and by both through the graph too, `GRAPH_DEPTH` deep, under the
            row's name and `BY_GRAPH`.
    """
    depth = min(GRAPH_DEPTH, len(index))
    exact_depth = top_k if hybrid is None else candidate_depth(top_k, count=len(index))

    def exactly(texts: Sequence[str], asked: Embeddings) -> dict[str, Answers]:
        nearest = index.search(asked, top_k=exact_depth, exact=True)
        found = {dense: (nearest.rows[:, :top_k], nearest.scores[:, :top_k])}
        if hybrid is not None:
            both = fuse_dense(index, texts, asked, nearest.rows, top_k=top_k, weight=weight, fusion=fusion)
            found[hybrid] = _answers(both)
        return found

    def by_graph(texts: Sequence[str], asked: Embeddings) -> dict[str, Answers]:
        found = {dense + BY_GRAPH: _answers(index.search(asked, top_k=depth, ef_search=ef_search))}
        if hybrid is not None:
            both = search_hybrid(
                index, texts, asked, top_k=depth, weight=weight, fusion=fusion, ef_search=ef_search
            )
            found[hybrid + BY_GRAPH] = _answers(both)
        return found

    def answer(texts: Sequence[str]) -> dict[str, Answers]:
        asked = encoder.encode_queries(texts)
        return exactly(texts, asked) | (by_graph(texts, asked) if graph else {})

    return Ranker(index.products.column(ID_COLUMN), answer)


def exact_ranker(
    index: SearchIndex, encoder: TorchEncoder, embeddings: Embeddings, *, name: str, top_k: int
) -> Ranker:
    """Return the ranker of a row by exact search over another encoder's embeddings of the same products.

    Args:
        index: whose products are ranked.
        encoder: embeds the queries.
        embeddings: (count, dim) of the products by that encoder; a memory map is read chunk by chunk.
        name: of the row.
        top_k: products per query.
    """

    def answer(texts: Sequence[str]) -> dict[str, Answers]:
        asked = encoder.encode_queries(texts)
        return {name: exact_search(embeddings, asked, top_k=top_k, tie_ranks=index.tie_ranks)}

    return Ranker(index.products.column(ID_COLUMN), answer)
