"""Run the application on a socket until a signal stops it."""

from __future__ import annotations

import faulthandler
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from aisle.errors import ConfigError

__all__ = ["DRAIN_SECONDS", "HttpServer", "listening_socket"]

DRAIN_SECONDS = 25
"""Most seconds for which a stopped server finishes requests; the others are then answered with 503. Its
threads have `STOP_SECONDS` after that, and `END_SECONDS` at the end of the process."""
LAST_SECONDS = 29
"""Seconds from the signal to the end of the process if the event loop itself is blocked. SageMaker kills a
container 30 s after the signal."""
KEEP_ALIVE_SECONDS = 75
"""Longer than the idle timeout of usual load balancers (60 s). Otherwise the server may close a connection
while the balancer sends a request on it, and the client sees 502."""


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns off Nagle's algorithm only if the protocol is named, which `socket.create_server` does not
    # do. With it, a response waits 40 ms for the client's delayed acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
        return listening
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there: {error}; choose another"
        ) from None


class HttpServer:
    """uvicorn with the application.

    Args:
        app: The application.
    """

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # it would log the path with its parameters
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=DRAIN_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self._server = _EndingServer(config)

    @property
    def started(self) -> bool:
        """Whether the server accepts requests."""
        return self._server.started

    def stop(self) -> None:
        """Stop accepting connections, finish the requests, and return from `run`. Any thread may call it."""
        self._server.should_exit = True

    def run(self, listening: socket.socket, *, page: str | None = None) -> None:
        """Serve until SIGTERM, SIGINT or `stop`, and return when the last request is answered.

        Args:
            listening: Socket that listens.
            page: Path of a page for the browser, whose address is logged.
        """
        logging.basicConfig(
            level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
        )
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        logger = logging.getLogger("aisle.service")
        logger.info("listening on http://%s:%d", shown, port)
        if page is not None:
            logger.info("open the search page in a browser: http://%s:%d%s", shown, port, page)
        try:
            with _quiet_end_by_sigterm():
                self._server.run(sockets=[listening])
        finally:
            self._server.ended()


class _EndingServer(uvicorn.Server):
    """uvicorn's server, whose process ends in time after a signal even if the event loop is blocked."""

    _limited = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop as uvicorn does; after `LAST_SECONDS` log where every thread is, and end with status 1."""
        if not self._limited and sys.__stderr__ is not None:
            self._limited = True
            faulthandler.dump_traceback_later(LAST_SECONDS, exit=True, file=sys.__stderr__)
        super().handle_exit(sig, frame)

    def ended(self) -> None:
        """Let the process end in its own time."""
        if self._limited:
            faulthandler.cancel_dump_traceback_later()


@contextmanager
def _quiet_end_by_sigterm() -> Iterator[None]:
    """Ignore the SIGTERM that uvicorn sends itself when it is done, with the handler from before.

    To end by a signal would be reported as a failure. In other threads there are no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
