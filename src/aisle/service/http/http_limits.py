"""ASGI middleware: limits on bodies, answers at a shutdown, and a count and duration for every request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aisle.service.http.error_responses import error_response
from aisle.service.request_errors import SHUTTING_DOWN, RequestError

__all__ = ["AnswerAtShutdown", "BodyLimits", "RequestObserver", "Timing"]

RequestObserver = Callable[[str, int, float], None]
"""Function called with the route, the status and the seconds of each request."""


class BodyLimits:
    """Refuse bodies that are too large (413) or arrive too slowly (408).

    Starlette's own limit answers in plain text and has no limit of time: a client that sends half a body
    would hold its connection for ever.

    Args:
        app: The application.
        max_bytes: Most bytes of a body, whether or not the client declares its length.
        seconds: Most seconds for a whole body.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with a `receive` that checks the body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"")
        too_large = declared.isdigit() and int(declared) > self.max_bytes
        deadline = time.monotonic() + self.seconds
        received, complete = 0, False

        async def receive_within_limits() -> Message:
            nonlocal received, complete
            if complete:  # from now on the message is that the client has disconnected
                return await receive()
            if too_large:
                raise self._too_large()
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise HTTPException(
                    408, f"the body did not arrive within {self.seconds:g} seconds; send it again"
                ) from None
            if message["type"] == "http.request":
                complete = not message.get("more_body", False)
                received += len(message.get("body", b""))
                if received > self.max_bytes:
                    raise self._too_large()
            return message

        await self.app(scope, receive_within_limits, send)

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413, f"a body has at most {self.max_bytes:,} bytes; send fewer queries at a time"
        )


class AnswerAtShutdown:
    """Answer a request that is not finished when the server ends with 503.

    uvicorn cancels such a request, and would close its connection without an answer.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer it if it is cancelled."""
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if scope["type"] != "http" or begun:
                raise
            await error_response(RequestError("not_ready", SHUTTING_DOWN))(scope, receive, send)


class Timing:
    """Report the route, status and duration of each request.

    Args:
        app: The application.
        observe: Function called at the end of each request.
    """

    def __init__(self, app: ASGIApp, *, observe: RequestObserver) -> None:
        self.app = app
        self.observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and report it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_with_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_with_status)
        finally:
            # The path of the route, not of the request: anyone can make up paths.
            route = getattr(scope.get("route"), "path", "other")
            self.observe(route, status, time.perf_counter() - started)
