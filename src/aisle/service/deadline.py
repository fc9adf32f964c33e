"""The time by which a request must be answered."""

from __future__ import annotations

import time
from dataclasses import dataclass

from aisle.service.request_errors import RequestError

__all__ = ["Deadline"]


@dataclass(frozen=True)
class Deadline:
    """The time by which a request must be answered; work for it stops then, because nobody waits for it.

    Args:
        limit_ms: Milliseconds that the request may take.
        at: Time of `time.monotonic` at which they are over.
    """

    limit_ms: int
    at: float

    @classmethod
    def after(cls, limit_ms: int) -> Deadline:
        """Return the deadline of a request that begins now."""
        return cls(limit_ms, time.monotonic() + limit_ms / 1000)

    @property
    def error(self) -> RequestError:
        """The error of a request that is not answered in time."""
        return RequestError(
            "timeout", f"not answered within {self.limit_ms} ms; try again, or raise timeout_ms"
        )

    def check(self) -> None:
        """Stop the work for a request whose time is over.

        Raises:
            RequestError: The time is over.
        """
        if time.monotonic() >= self.at:
            raise self.error
