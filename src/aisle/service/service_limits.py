"""Limits of a server."""

from __future__ import annotations

from dataclasses import dataclass, field

from aisle.service.request_queue import QueueLimits

__all__ = ["ServiceLimits"]


@dataclass(frozen=True)
class ServiceLimits:
    """Limits of a server.

    Args:
        queue: Limits of the queue.
        max_queries: Most queries, or texts to embed, in a request.
        max_rerank_texts: Most texts to rerank in a request.
        max_body_bytes: Most bytes of a body.
        body_seconds: Most seconds in which a body must arrive.
        timeout_ms: Milliseconds after which a request without its own limit is answered with 504.
    """

    queue: QueueLimits = field(default_factory=QueueLimits)
    max_queries: int = 32
    max_rerank_texts: int = 256
    max_body_bytes: int = 2_000_000
    body_seconds: float = 10.0
    timeout_ms: int = 10_000
