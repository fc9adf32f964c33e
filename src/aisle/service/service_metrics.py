"""Metrics of the service in Prometheus' form: requests, durations, queue, batches, version, swaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

__all__ = ["ServiceMetrics"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16_384)
JOBS = (1, 2, 4, 8, 16, 32, 64)


class ServiceMetrics:
    """Counters of a server. Each server has its own registry, so that a process may have several servers.

    Args:
        queue_length: Function that returns the number of requests that wait.
    """

    CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, queue_length: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "aisle_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "aisle_request_seconds",
            "Seconds from the first byte of a request to the last byte of its response.",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._phases = Histogram(
            "aisle_phase_seconds",
            "Seconds of a request in each phase: queue, embed, search, rerank.",
            ["phase"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batch_jobs = Histogram(
            "aisle_batch_requests",
            "Requests that are answered together.",
            buckets=JOBS,
            registry=self._registry,
        )
        self._batch_tokens = Histogram(
            "aisle_batch_tokens",
            "Tokens of a batch, about.",
            buckets=TOKENS,
            registry=self._registry,
        )
        waiting = Gauge("aisle_queue_requests", "Requests that wait.", registry=self._registry)
        waiting.set_function(queue_length)
        self._version = Gauge(
            "aisle_index_version", "Version of the index that answers.", registry=self._registry
        )
        self._products = Gauge(
            "aisle_index_products", "Products of the index that answers.", registry=self._registry
        )
        self._swaps = Gauge(
            "aisle_swaps",
            "Swaps of index and model since the start, by outcome.",
            ["outcome"],
            registry=self._registry,
        )
        self._failing = Gauge(
            "aisle_swap_failing",
            "1 if a newer pair of index and model was refused and an older one answers.",
            registry=self._registry,
        )

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def observe_batch(self, jobs: int, tokens: int, waits: Sequence[float]) -> None:
        """Count a batch, and the seconds that its requests waited."""
        self._batch_jobs.observe(jobs)
        self._batch_tokens.observe(tokens)
        for seconds in waits:
            self._phases.labels("queue").observe(seconds)

    def observe_search(self, embed_ms: float, search_ms: float) -> None:
        """Count the phases of a search."""
        self._phases.labels("embed").observe(embed_ms / 1000)
        self._phases.labels("search").observe(search_ms / 1000)

    def observe_rerank(self, rerank_ms: float) -> None:
        """Count the phase of texts that were reranked."""
        self._phases.labels("rerank").observe(rerank_ms / 1000)

    def set_index(self, version: int, products: int) -> None:
        """Show the version that answers."""
        self._version.set(version)
        self._products.set(products)

    def set_swaps(self, swaps: int, refused: int, *, failing: bool) -> None:
        """Show the number of swaps, of refused ones, and whether the pair that should be in use is not."""
        self._swaps.labels("done").set(swaps)
        self._swaps.labels("refused").set(refused)
        self._failing.set(failing)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
