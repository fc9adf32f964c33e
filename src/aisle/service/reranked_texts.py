"""Scores of texts for a query by the server's reranker; the pairs of several requests are scored together."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.search.rerankers import Pair, Reranker
from aisle.service.request_errors import RequestError

__all__ = ["RerankJob", "RerankedTexts", "no_reranker", "rerank_jobs", "reranker_failed"]

LOGGER = logging.getLogger("aisle.service")


@dataclass(frozen=True)
class RerankJob:
    """Texts to score for a query.

    Args:
        query: The query.
        documents: The texts.
        truncate: Whether a pair beyond the maximum length is cut; otherwise it is an error.
    """

    query: str
    documents: Sequence[str]
    truncate: bool = True

    @property
    def pairs(self) -> list[Pair]:
        """The query with each text."""
        return [(self.query, text) for text in self.documents]

    @property
    def texts(self) -> list[str]:
        """What the model reads."""
        return [f"{query} {text}" for query, text in self.pairs]


@dataclass(frozen=True, eq=False)
class RerankedTexts:
    """Scores of a job's texts.

    Args:
        logits: (texts,) float32 in the order of the texts; higher is more relevant.
        took_ms: Milliseconds of the batch.
    """

    logits: npt.NDArray[np.float32]
    took_ms: float

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(texts,) sigmoid of the logits."""
        # 1 / (1 + exp(-x)) without an overflow
        probabilities: npt.NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * self.logits.astype(np.float64)))
        return probabilities

    @property
    def order(self) -> list[int]:
        """Numbers of the texts, best first; equal scores keep their order."""
        order: list[int] = np.argsort(-self.logits, kind="stable").tolist()
        return order


def no_reranker(field: str | None = None) -> RequestError:
    """Return the error of a server without a reranker. The encoder is no substitute.

    Its cosines are no probabilities, and they are the order that the search had already.

    Args:
        field: Field of the request that needs a reranker; None if the whole request does.
    """
    return RequestError(
        "no_reranker",
        "this server has no reranker, a model that reads the query and a text together (a cross-encoder); "
        "start it with --reranker FOLDER. POST /search ranks products by the encoder",
        field=field,
    )


def reranker_failed() -> RequestError:
    """Return the error of a request whose texts the reranker failed to score."""
    return RequestError("internal_error", "the reranker failed; the server's log has the reason")


def rerank_jobs(reranker: Reranker | None, jobs: Sequence[RerankJob]) -> list[RerankedTexts | Exception]:
    """Return the scores of each job, or its error; all pairs are scored together."""
    if reranker is None or not jobs:
        return [no_reranker()] * len(jobs)
    started = time.perf_counter()
    try:
        for job in jobs:
            _check_lengths(reranker, job)
        logits = reranker.logits([pair for job in jobs for pair in job.pairs])
    except Exception as error:  # a defect of a reranker must not fail the searches of the same batch
        if len(jobs) > 1:  # only the job that causes it fails
            return [found for job in jobs for found in rerank_jobs(reranker, [job])]
        if not isinstance(error, RequestError):
            LOGGER.exception("reranker %s: failed", reranker.name)
            error = reranker_failed()
        return [error]
    took = 1000 * (time.perf_counter() - started)
    ends = np.cumsum([len(job.documents) for job in jobs])
    return [RerankedTexts(part, took) for part in np.split(logits, ends[:-1])]


def _check_lengths(reranker: Reranker, job: RerankJob) -> None:
    """Refuse a pair that would be cut, if the job asks for that.

    Raises:
        RequestError: A pair is longer than the reranker's maximum.
    """
    if job.truncate or reranker.limit is None:
        return
    for number, tokens in enumerate(reranker.limit.count(job.pairs)):
        if tokens > reranker.limit.max_length:
            raise RequestError(
                "invalid_request",
                f"text {number}: has {tokens} tokens with the query, and the reranker reads "
                f"{reranker.limit.max_length}; shorten it, or leave truncate out",
                field="truncate",
            )
