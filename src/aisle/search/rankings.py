"""Rank a catalogue for many queries with several systems, a chunk of queries at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.index import SearchIndex, SearchResult, exact_search
from aisle.index.hybrid_search import candidate_depth, fuse_dense
from aisle.search.searcher import Searcher
from aisle.types.columns import ID_COLUMN
from aisle.types.encoder_protocol import Encoder

__all__ = [
    "BY_GRAPH",
    "GRAPH_DEPTH",
    "Ranker",
    "Run",
    "index_ranker",
    "lexical_ranker",
    "other_encoder_ranker",
    "rank_all",
]

CHUNK_QUERIES = 1024
"""Queries embedded and searched at a time: 100 answers of each, and their embeddings, are a few MiB."""
GRAPH_DEPTH = 10
"""Products per query in a graph search: a first page, as `query` shows it."""
BY_GRAPH = " by the graph"
"""Suffix of the name of a system's rankings by graph search."""

Answers = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""(queries, top_k) rows of an index, -1 after the last of a short answer, and their scores."""


@dataclass(frozen=True, eq=False)
class Ranker:
    """A ranker of the products of an index, for one or more systems.

    Args:
        product_ids: Id of each row of the index, (products,).
        answer: Function from the texts of some queries to their answers, by the name of the system.
    """

    product_ids: pa.ChunkedArray
    answer: Callable[[Sequence[str]], Mapping[str, Answers]]


@dataclass(frozen=True, eq=False)
class Run(Mapping[str, Mapping[str, float]]):
    """A run, {query id: {product id: score}}, stored as row numbers: 12 bytes an answer; a dict takes 150.

    Args:
        product_ids: Id of each row of the index, (products,).
        places: Query id -> row of its answer in `rows` and `scores`.
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
    """Return the run of each system.

    Args:
        rankers: Rankers of the products; a ranker may answer for several systems.
        queries: Query id -> text.
        chunk_queries: Queries answered at a time; None is `CHUNK_QUERIES`. It changes memory, not rankings.
        on_progress: Called with the number of queries that a ranker has answered since the last call.

    Raises:
        SearchError: An index cannot answer.
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


def lexical_ranker(index: SearchIndex, *, name: str, top_k: int) -> Ranker:
    """Return the ranker of a system that searches the texts of an index by BM25."""
    searcher = Searcher(index, mode="lexical")

    def answer(texts: Sequence[str]) -> dict[str, Answers]:
        return {name: _answers(searcher.search(texts, top_k))}

    return Ranker(index.products.column(ID_COLUMN), answer)


def index_ranker(searcher: Searcher, *, dense: str, hybrid: str | None, top_k: int, graph: bool) -> Ranker:
    """Return the ranker of an index's dense and hybrid search, which embeds each query only once.

    Both compare a query with all products, so that systems differ only in their scores.

    Args:
        searcher: Searcher of the index with its encoder.
        dense: Name of the dense search.
        hybrid: Name of the hybrid search; None leaves it out.
        top_k: Products per query.
        graph: Also search through the graph, for `GRAPH_DEPTH` products, under each name and `BY_GRAPH`.
    """
    index = searcher.index
    exact_depth = top_k if hybrid is None else candidate_depth(top_k, count=len(index))

    def answer(texts: Sequence[str]) -> dict[str, Answers]:
        embeddings = searcher.encode(texts)
        nearest = searcher.search(texts, exact_depth, mode="dense", exact=True, query_embeddings=embeddings)
        found = {dense: _answers(nearest.first(top_k))}
        if hybrid is not None:
            # Reuses the dense search of the line above; a separate hybrid search would repeat it.
            fused = fuse_dense(
                index,
                texts,
                embeddings,
                nearest.rows,
                top_k=top_k,
                weight=searcher.weight,
                fusion=searcher.fusion,
            )
            found[hybrid] = _answers(fused)
        if graph:
            depth = min(GRAPH_DEPTH, len(index))
            by_graph = searcher.search(texts, depth, mode="dense", query_embeddings=embeddings)
            found[dense + BY_GRAPH] = _answers(by_graph)
            if hybrid is not None:
                by_graph = searcher.search(texts, depth, mode="hybrid", query_embeddings=embeddings)
                found[hybrid + BY_GRAPH] = _answers(by_graph)
        return found

    return Ranker(index.products.column(ID_COLUMN), answer)


def other_encoder_ranker(
    index: SearchIndex,
    encoder: Encoder,
    embeddings: npt.NDArray[np.float32],
    *,
    name: str,
    top_k: int,
) -> Ranker:
    """Return the ranker of another encoder, by exact search over its embeddings of an index's products.

    Args:
        index: Index of the products.
        encoder: Encoder of the queries.
        embeddings: (count, dim) embeddings of the products; a memory map is read chunk by chunk.
        name: Name of the system.
        top_k: Products per query.
    """

    def answer(texts: Sequence[str]) -> dict[str, Answers]:
        queries = encoder.encode_queries(texts)
        return {name: exact_search(embeddings, queries, top_k=top_k, tie_ranks=index.tie_ranks)}

    return Ranker(index.products.column(ID_COLUMN), answer)


def _answers(found: SearchResult) -> Answers:
    return found.rows, found.scores
