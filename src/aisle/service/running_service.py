"""A running server: the engine, the queue before it, keys, limits and metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import Header

from aisle.errors import AisleError, ModelError, SearchError
from aisle.service.api_keys import ApiKeys
from aisle.service.deadline import Deadline
from aisle.service.engine import Answer, Engine, Job, SearchJob
from aisle.service.hidden_paths import public_message
from aisle.service.pairs.swap import PairSwapper
from aisle.service.request_errors import RequestError
from aisle.service.request_queue import RequestQueue
from aisle.service.reranked_texts import RerankedTexts
from aisle.service.service_limits import ServiceLimits
from aisle.service.service_metrics import ServiceMetrics
from aisle.service.text_embedding import EmbeddedTexts, about_tokens

__all__ = ["STOP_SECONDS", "RunningService"]

LOGGER = logging.getLogger("aisle.service")
UNLOAD_SECONDS = 30.0
"""Most seconds for which a service finishes its requests before it is unloaded."""
STOP_SECONDS = 2.0
"""The same at the end of the server, for all services together: every request is answered by then, and only
jobs that nobody waits for are left."""


class RunningService:
    """The parts of a running server.

    Args:
        engine: The engine.
        limits: Limits of the server.
        keys: API keys; None accepts every request.
        log_queries: Whether to log the texts of queries.
        swapper: Keeps the engine on the current pair; None if the pair never changes.
    """

    def __init__(
        self,
        engine: Engine,
        limits: ServiceLimits,
        keys: ApiKeys | None,
        log_queries: bool,
        swapper: PairSwapper | None = None,
    ) -> None:
        self.engine = engine
        self.limits = limits
        self.keys = keys
        self.log_queries = log_queries
        self.swapper = swapper
        self._queue: RequestQueue[Job, tuple[Answer, bytes]] | None = None
        self.metrics = ServiceMetrics(lambda: 0 if self._queue is None else len(self._queue))

    def start(self) -> None:
        """Start the threads that answer and that swap."""
        self._queue = RequestQueue(self._answer, self.limits.queue, on_batch=self.metrics.observe_batch)
        if self.swapper is not None:
            self.swapper.start()

    def stop(self, seconds: float = UNLOAD_SECONDS) -> None:
        """Answer what waits, and end the threads.

        Args:
            seconds: Most seconds to wait for busy threads.
        """
        if self.swapper is not None:
            self.swapper.stop()
        if self._queue is not None:
            self._queue.close(seconds)

    def measure(self) -> ServiceMetrics:
        """Return the metrics, with the version and the swaps of now."""
        if self.swapper is not None:
            status = self.swapper.status
            self.metrics.set_swaps(status.swaps, status.refused, failing=status.problem is not None)
        if self.engine.ready:
            pair = self.engine.pair
            self.metrics.set_index(pair.version, len(pair.index))
        return self.metrics

    async def check_key(
        self,
        authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
        x_api_key: Annotated[str | None, Header(include_in_schema=False)] = None,
    ) -> None:
        """Refuse a request without a valid key; a dependency of routes.

        Raises:
            RequestError: The server has keys, and the request has none of them.
        """
        if self.keys is None:
            return
        scheme, _, bearer = (authorization or "").partition(" ")
        given = [x_api_key] if x_api_key else [bearer.strip()] if scheme.lower() == "bearer" else []
        if not any(self.keys.accepts(key) for key in given):
            raise RequestError(
                "unauthorized", "give an API key in the header Authorization: Bearer KEY, or X-API-Key: KEY"
            )

    def check_count(self, texts: Sequence[str], field: str, *, most: int | None = None) -> None:
        """Refuse a request with too many texts.

        Args:
            texts: The texts.
            field: Field of the request.
            most: Most texts; None is the limit for queries and for texts to embed.

        Raises:
            RequestError: There are more than the server's limit.
        """
        limit = self.limits.max_queries if most is None else most
        if len(texts) > limit:
            raise RequestError(
                "invalid_request",
                f"{field}: at most {limit} in a request, found {len(texts)}",
                field=field,
            )

    async def run(self, job: Job, timeout_ms: int | None = None) -> tuple[Answer, bytes]:
        """Return the answer to a job, and its JSON if it is a search, once a worker has computed it.

        Raises:
            RequestError: The queue is full, the job cannot be answered, or its time is over.
        """
        tokens = about_tokens(job.texts, max_length=self.engine.max_length(job))
        assert self._queue is not None
        deadline = Deadline.after(self.limits.timeout_ms if timeout_ms is None else timeout_ms)
        if isinstance(job, SearchJob):
            job = replace(job, deadline=deadline)
            if job.request.rerank is not None:  # alone in its batch: quick searches do not wait for it
                tokens = max(tokens, self.limits.queue.batch_tokens)
        try:
            # A job that still waits is cancelled with the future; a search stops soon after its deadline, and
            # the result of another job is dropped.
            return await asyncio.wait_for(
                asyncio.wrap_future(self._queue.submit(job, tokens=tokens)), deadline.limit_ms / 1000
            )
        except asyncio.TimeoutError:
            raise deadline.error from None
        except AisleError as error:
            raise self._public(error) from None

    def _public(self, error: AisleError) -> RequestError:
        """Return an error for the client, without the server's paths."""
        if not isinstance(error, RequestError | SearchError | ModelError):
            LOGGER.error("a request failed: %s", error)
            return RequestError("internal_error", "the server failed; its log has the reason")
        message = public_message(str(error), self.engine.pair.places)
        if isinstance(error, RequestError):
            return RequestError(error.kind, message, field=error.field, retry_after=error.retry_after)
        return RequestError("invalid_request", message)

    def _answer(self, jobs: Sequence[Job]) -> list[tuple[Answer, bytes] | Exception]:
        """Answer a batch; the JSON of searches is written here, in the worker's thread."""
        return [
            found if isinstance(found, Exception) else self._with_json(found)
            for found in self.engine.answer(jobs)
        ]

    def _with_json(self, found: Answer) -> tuple[Answer, bytes] | Exception:
        try:
            return found, self._written(found)
        except Exception as error:  # a value that JSON does not have fails its own job only
            return error

    def _written(self, found: Answer) -> bytes:
        if isinstance(found, EmbeddedTexts):
            return b""
        if isinstance(found, RerankedTexts):
            self.metrics.observe_rerank(found.took_ms)
            return b""
        self.metrics.observe_search(found.took_ms.embed, found.took_ms.search)
        if found.took_ms.rerank is not None:
            self.metrics.observe_rerank(found.took_ms.rerank)
        return found.model_dump_json(exclude_unset=True).encode()
