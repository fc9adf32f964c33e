"""Threads for work that may take minutes, which a server can leave behind when it ends.

They are daemon threads. The event loop and the interpreter wait at their end for the threads of
`asyncio.to_thread` and of a `ThreadPoolExecutor`, so a slow search or the load of a model would hold the
process until SageMaker or systemd kills it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

__all__ = ["ending_without_workers", "run_in_worker", "start_worker"]

PREFIX = "aisle-"
END_SECONDS = 1.0
"""Most seconds for which the end of the process waits for busy threads."""

Given = ParamSpec("Given")
Found = TypeVar("Found")


def start_worker(work: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread and return it."""
    thread = threading.Thread(target=work, name=PREFIX + name, daemon=True)
    thread.start()
    return thread


async def run_in_worker(function: Callable[Given, Found], *args: Given.args, **kwargs: Given.kwargs) -> Found:
    """Return what a function returns in a thread; if the caller is cancelled, the thread goes on alone."""
    answer: Future[Found] = Future()
    answer.set_running_or_notify_cancel()

    def work() -> None:
        try:
            found = function(*args, **kwargs)
        except BaseException as error:  # the caller raises it
            answer.set_exception(error)
        else:
            answer.set_result(found)

    start_worker(work, getattr(function, "__name__", "worker"))
    return await asyncio.wrap_future(answer)


@contextmanager
def ending_without_workers() -> Iterator[None]:
    """End the process after the block if a thread is still busy: 0, or 130 after SIGINT.

    The interpreter's own end would wait for thread pools in the work of such a thread, or would stop the
    thread inside a C++ library, which aborts the process.
    """
    try:
        yield
    except KeyboardInterrupt:
        _exit_if_busy(130)
        raise
    _exit_if_busy(0)


def _exit_if_busy(status: int) -> None:
    until = time.monotonic() + END_SECONDS
    busy = [thread for thread in threading.enumerate() if thread.name.startswith(PREFIX)]
    for thread in busy:
        thread.join(max(0.0, until - time.monotonic()))
    if any(thread.is_alive() for thread in busy):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
