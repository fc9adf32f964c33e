"""Errors of a request, with the HTTP status that reports each kind."""

from __future__ import annotations

from typing import Literal, TypeAlias

from aisle.errors import AisleError

__all__ = ["SHUTTING_DOWN", "STATUS", "ErrorKind", "RequestError"]

ErrorKind: TypeAlias = Literal[
    "invalid_json",
    "invalid_search",
    "unauthorized",
    "not_found",
    "method_not_allowed",
    "body_timeout",
    "model_loaded",
    "swap_refused",
    "version_gone",
    "body_too_large",
    "unsupported_media_type",
    "invalid_request",
    "queue_full",
    "internal_error",
    "no_reranker",
    "not_ready",
    "timeout",
    "insufficient_memory",
]
"""Value of `error.type` in a response."""

STATUS: dict[ErrorKind, int] = {
    "invalid_json": 400,
    "invalid_search": 400,
    "unauthorized": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "model_loaded": 409,
    "swap_refused": 409,
    "version_gone": 410,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "invalid_request": 422,
    "queue_full": 429,
    "internal_error": 500,
    "no_reranker": 501,
    "not_ready": 503,
    "timeout": 504,
    "insufficient_memory": 507,
}
"""HTTP status of each kind of error."""

SHUTTING_DOWN = "the server is shutting down; send the request to another"
"""Message of an error of the kind `not_ready`."""


class RequestError(AisleError):
    """A request that is refused, or cannot be answered now.

    Args:
        kind: Kind of the error.
        message: The rule, the value found and the remedy; it never repeats a query.
        field: Field of the request; None if no field is wrong.
        retry_after: Seconds after which the client may try again; None if that would not help.
    """

    def __init__(
        self, kind: ErrorKind, message: str, *, field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.field = field
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """HTTP status."""
        return STATUS[self.kind]
