"""One bounded queue of jobs, which worker threads answer in batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from aisle.service.request_errors import SHUTTING_DOWN, RequestError
from aisle.service.worker_threads import start_worker

__all__ = ["BatchObserver", "QueueLimits", "RequestQueue"]

Job = TypeVar("Job")
Answer = TypeVar("Answer")

LOGGER = logging.getLogger("aisle.service")
BatchObserver = Callable[[int, int, Sequence[float]], None]
"""Function called with each batch: its jobs, its tokens and the seconds that each job waited."""
RETRY_AFTER = 1
"""Seconds that a client waits after 429. A full queue of the default length is usually empty after that."""


@dataclass(frozen=True)
class QueueLimits:
    """Limits of the queue."""

    max_waiting: int = 256
    """Most jobs that wait; another is refused."""
    batch_tokens: int = 2048
    """Most tokens in a batch; a longer job is a batch by itself."""
    workers: int = 2
    """Threads that answer batches."""


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Job, Answer]):
    job: Job
    tokens: int
    future: Future[Answer]
    since: float


class RequestQueue(Generic[Job, Answer]):
    """A bounded queue of jobs and the threads that answer them.

    A thread takes the job that waits longest, and with it those that follow, up to the limit of tokens. So a
    single request never waits for others, and batches grow with the load. A job that is cancelled leaves the
    queue at once and is not computed.

    Args:
        answer: Function that answers a batch of jobs: an answer or an error for each.
        limits: Limits of the queue.
        on_batch: Function called with the size of each batch.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Job]], Sequence[Answer | Exception]],
        limits: QueueLimits,
        *,
        on_batch: BatchObserver | None = None,
    ) -> None:
        self.limits = limits
        self._answer = answer
        self._on_batch = on_batch
        self._waiting: deque[_Waiting[Job, Answer]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [start_worker(self._work, f"answer-{number}") for number in range(limits.workers)]

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, job: Job, *, tokens: int) -> Future[Answer]:
        """Add a job to the queue and return the future of its answer.

        Args:
            job: The job.
            tokens: Number of tokens that it embeds, about.

        Raises:
            RequestError: The queue is full, or closed.
        """
        waiting: _Waiting[Job, Answer] = _Waiting(job, tokens, Future(), time.perf_counter())
        with self._changed:
            if self._closed:
                raise RequestError("not_ready", SHUTTING_DOWN)
            if len(self._waiting) >= self.limits.max_waiting:
                raise RequestError(
                    "queue_full",
                    f"{self.limits.max_waiting} requests are waiting; try again later",
                    retry_after=RETRY_AFTER,
                )
            self._waiting.append(waiting)
            self._changed.notify()
        waiting.future.add_done_callback(lambda future: self._drop(waiting) if future.cancelled() else None)
        return waiting.future

    def _drop(self, cancelled: _Waiting[Job, Answer]) -> None:
        """Remove a cancelled job, so that it takes no place from others."""
        with self._changed:
            if cancelled in self._waiting:  # otherwise a worker has just taken it
                self._waiting.remove(cancelled)

    def close(self, timeout: float = 30.0) -> None:
        """Answer the jobs that wait, refuse others, and end the threads.

        A thread that is still busy after the timeout is left behind.

        Args:
            timeout: Most seconds to wait.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while batch := self._next_batch():
            started = time.perf_counter()
            running = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if not running:
                continue
            self._observe(running, started)
            for waiting, found in zip(running, self._answers([each.job for each in running]), strict=True):
                if isinstance(found, Exception):
                    waiting.future.set_exception(found)
                else:
                    waiting.future.set_result(found)

    def _observe(self, running: Sequence[_Waiting[Job, Answer]], started: float) -> None:
        if self._on_batch is None:
            return
        tokens = sum(waiting.tokens for waiting in running)
        try:
            self._on_batch(len(running), tokens, [started - waiting.since for waiting in running])
        except Exception:  # a defect of the metrics; the requests are answered, and the thread goes on
            LOGGER.exception("a batch was not counted")

    def _answers(self, jobs: Sequence[Job]) -> Sequence[Answer | Exception]:
        try:
            return self._answer(jobs)
        except Exception as error:  # a defect; the requests report it, and the thread goes on
            return [error] * len(jobs)

    def _next_batch(self) -> list[_Waiting[Job, Answer]]:
        """Wait for jobs and take a batch of them; return an empty list after the queue was closed."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            batch = [self._waiting.popleft()]
            tokens = batch[0].tokens
            while self._waiting and tokens + self._waiting[0].tokens <= self.limits.batch_tokens:
                batch.append(self._waiting.popleft())
                tokens += batch[-1].tokens
            return batch
