"""The engine: the pair in use, and the answers to batches of searches, texts to embed and texts to rerank."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from aisle.search.rerankers import Reranker
from aisle.service.deadline import Deadline
from aisle.service.pairs.served_pair import ServedPair
from aisle.service.request_errors import RequestError
from aisle.service.requests import SearchRequest
from aisle.service.reranked_search import search_reranking
from aisle.service.reranked_texts import RerankedTexts, RerankJob, rerank_jobs
from aisle.service.responses import (
    IndexName,
    ModelName,
    SearchResponse,
    TookMs,
)
from aisle.service.search_results import search_results
from aisle.service.text_embedding import EmbeddedTexts, EmbedOptions, embed_texts

__all__ = ["Answer", "EmbedJob", "Engine", "Job", "SearchJob"]


@dataclass(frozen=True)
class SearchJob:
    """A search to answer."""

    request: SearchRequest
    deadline: Deadline | None = None
    """When the work stops; None if nobody waits, as for a first query at the start."""

    @property
    def texts(self) -> list[str]:
        """Texts of the queries."""
        return self.request.texts


@dataclass(frozen=True)
class EmbedJob:
    """Texts to embed."""

    texts: list[str]
    options: EmbedOptions


Job: TypeAlias = SearchJob | EmbedJob | RerankJob
Answer: TypeAlias = SearchResponse | EmbeddedTexts | RerankedTexts
Embedded: TypeAlias = Mapping[str, npt.NDArray[np.float32] | Exception]
"""Embedding of each query, or the error of the encoder for it."""


@dataclass(frozen=True)
class _InUse:
    """The pairs that answer, replaced together."""

    current: ServedPair
    previous: ServedPair | None = None

    def of(self, job: Job) -> ServedPair:
        """Return the pair that answers a job: the current one, or the one that it names.

        Raises:
            RequestError: The version or the index that it names is not open.
        """
        if not isinstance(job, SearchJob):
            return self.current
        version, fingerprint = job.request.version, job.request.fingerprint
        open_pairs = [pair for pair in (self.current, self.previous) if pair is not None]
        named = [pair for pair in open_pairs if fingerprint in (None, pair.index_fingerprint)]
        found = next((pair for pair in named if version in (None, pair.version)), None)
        if found is None and fingerprint is not None:
            number = "" if version is None else f" with version {version}"
            raise RequestError(
                "version_gone",
                f"fingerprint: {fingerprint[:12]}{number} is not open; "
                f"{self.current.index_fingerprint[:12]} is current; leave the field out, and start at the "
                "first page",
                field="fingerprint",
            )
        if found is None:
            known = " and ".join(str(pair.version) for pair in open_pairs)
            raise RequestError(
                "version_gone",
                f"version: {version} is not open; version {self.current.version} is current, and {known} "
                "can be named; leave the field out",
                field="version",
            )
        return found


class Engine:
    """The pair in use and the answers that it gives; any number of threads may use an engine.

    The pair before stays open, for requests that page through its version.

    Args:
        pair: The pair in use; None until it is loaded.
        reranker: Scores texts for a query; None refuses them.
    """

    def __init__(self, pair: ServedPair | None = None, *, reranker: Reranker | None = None) -> None:
        self.reranker = reranker
        self._in_use = None if pair is None else _InUse(pair)

    @property
    def pair(self) -> ServedPair:
        """The pair in use.

        Raises:
            RequestError: It is still being loaded.
        """
        return self._pairs.current

    @property
    def _pairs(self) -> _InUse:
        in_use = self._in_use
        if in_use is None:
            raise RequestError("not_ready", "the model and the index are being loaded", retry_after=1)
        return in_use

    @property
    def ready(self) -> bool:
        """Whether a pair is in use."""
        return self._in_use is not None

    def max_length(self, job: Job) -> int | None:
        """Return the most tokens of a text that the model of a job reads; None if there is no limit.

        Raises:
            RequestError: The pair is still being loaded.
        """
        pair = self.pair
        if not isinstance(job, RerankJob):
            return pair.max_length
        limit = None if self.reranker is None else self.reranker.limit
        return None if limit is None else limit.max_length

    def switch(self, pair: ServedPair) -> None:
        """Answer with another pair from now on; batches that have begun finish on the old pair."""
        before = self._in_use
        previous = None if before is None else before.current
        if before is not None and before.current.index_fingerprint == pair.index_fingerprint:
            previous = before.previous  # only the model was replaced
        self._in_use = _InUse(pair, previous)

    def answer(self, jobs: Sequence[Job]) -> list[Answer | Exception]:
        """Return the answer to each job, or its error; all queries of a pair are embedded together.

        Args:
            jobs: Searches, texts to embed, and texts to rerank.
        """
        answers: dict[int, Answer | Exception] = {}
        numbers_of: dict[ServedPair, list[int]] = {}
        try:
            pairs = self._pairs  # read once: a switch concerns the next batch, not this one
        except RequestError as error:
            return [error] * len(jobs)
        for number, job in enumerate(jobs):
            try:
                numbers_of.setdefault(pairs.of(job), []).append(number)
            except RequestError as error:
                answers[number] = error
        for pair, numbers in numbers_of.items():
            found = _answers_of(pair, self.reranker, [jobs[number] for number in numbers])
            answers |= dict(zip(numbers, found, strict=True))
        return [answers[number] for number in range(len(jobs))]


def _answers_of(pair: ServedPair, reranker: Reranker | None, jobs: Sequence[Job]) -> list[Answer | Exception]:
    """Return the answers that a pair and the reranker give."""
    started = time.perf_counter()
    embedded = _embed_queries(pair, [job.request for job in jobs if isinstance(job, SearchJob)])
    took = 1000 * (time.perf_counter() - started)
    texts = _embed_jobs(pair, [job for job in jobs if isinstance(job, EmbedJob)])
    ranked = iter(rerank_jobs(reranker, [job for job in jobs if isinstance(job, RerankJob)]))
    return [
        _answer_search(pair, job, embedded, took, reranker)
        if isinstance(job, SearchJob)
        else next(texts)
        if isinstance(job, EmbedJob)
        else next(ranked)
        for job in jobs
    ]


def _embed_queries(pair: ServedPair, requests: Sequence[SearchRequest]) -> Embedded:
    """Return the embedding of each text that a search needs, or the error of the encoder for it."""
    needed = [request for request in requests if _needs_embedding(pair, request)]
    texts = list(dict.fromkeys(text for request in needed for text in request.texts))
    if not texts or pair.encoder is None:
        return {}
    try:
        return dict(zip(texts, pair.searcher.encode(texts), strict=True))
    except Exception as error:
        if len(needed) == 1:
            return dict.fromkeys(texts, error)
    embedded: dict[str, npt.NDArray[np.float32] | Exception] = {}
    for request in needed:  # only a search with a wrong text fails
        embedded |= {
            text: found
            for text, found in _embed_queries(pair, [request]).items()
            if not isinstance(embedded.get(text), np.ndarray)
        }
    return embedded


def _needs_embedding(pair: ServedPair, request: SearchRequest) -> bool:
    return request.vector is None and (request.mode or pair.searcher.mode) != "lexical"


def _answer_search(
    pair: ServedPair,
    job: SearchJob,
    embedded: Embedded,
    embed_ms: float,
    reranker: Reranker | None,
) -> SearchResponse | Exception:
    started, request = time.perf_counter(), job.request
    try:
        rerank = search_reranking(reranker, request)
        results = search_results(
            pair, request, _vectors(pair, request, embedded), rerank=rerank, deadline=job.deadline
        )
        taken = 1000 * (time.perf_counter() - started)
        reranked = {} if rerank is None else {"rerank": round(rerank.took_ms, 3)}
        search_ms = taken - (0.0 if rerank is None else rerank.took_ms)
        took = TookMs(embed=round(embed_ms, 3), search=round(search_ms, 3), **reranked)
        alone = {name: getattr(results[0], name) for name in results[0].model_fields_set}
        shown: dict[str, Any] = {"results": results} if request.queries is not None else alone
        return SearchResponse(**shown, **_names(pair), took_ms=took)
    except Exception as error:  # also a defect fails this job only
        return error


def _vectors(
    pair: ServedPair,
    request: SearchRequest,
    embedded: Embedded,
) -> npt.NDArray[np.float32] | None:
    """Return the embeddings of a request's queries, None if it needs none.

    Raises:
        Exception: The encoder failed.
    """
    if request.vector is not None:
        return np.array([request.vector], np.float32)
    if not _needs_embedding(pair, request) or pair.encoder is None:
        return None
    vectors: list[npt.NDArray[np.float32]] = []
    for found in (embedded[text] for text in request.texts):
        if isinstance(found, Exception):
            raise found
        vectors.append(found)
    return np.array(vectors, np.float32)


def _embed_jobs(pair: ServedPair, jobs: Sequence[EmbedJob]) -> Iterator[EmbeddedTexts | Exception]:
    """Yield the answer to each job; jobs with the same options are embedded together."""
    answers: dict[int, EmbeddedTexts | Exception] = {}
    alike: dict[EmbedOptions, list[int]] = {}
    for number, job in enumerate(jobs):
        alike.setdefault(job.options, []).append(number)
    for options, numbers in alike.items():
        found = _embed(pair, [text for number in numbers for text in jobs[number].texts], options)
        if isinstance(found, Exception) and len(numbers) > 1:  # only a job with a wrong text fails
            answers |= {number: _embed(pair, jobs[number].texts, options) for number in numbers}
            continue
        start = 0
        for number in numbers:
            end = start + len(jobs[number].texts)
            answers[number] = found if isinstance(found, Exception) else found.part(start, end)
            start = end
    return (answers[number] for number in range(len(jobs)))


def _embed(pair: ServedPair, texts: Sequence[str], options: EmbedOptions) -> EmbeddedTexts | Exception:
    if pair.encoder is None:
        return RequestError("invalid_search", "the server searches by words only and has no encoder")
    try:
        adapter = pair.index.query_adapter
        return embed_texts(pair.encoder, texts, options, model=pair.model_name, adapter=adapter)
    except Exception as error:  # also a defect fails this job only
        return error


def _names(pair: ServedPair) -> dict[str, Any]:
    """Return what a response says about the pair that answered."""
    names: dict[str, Any] = {"index": IndexName(version=pair.version, fingerprint=pair.index_fingerprint)}
    if pair.encoder is not None:
        names["model"] = ModelName(fingerprint=str(pair.searcher.query_fingerprint), name=pair.model_name)
    return names
