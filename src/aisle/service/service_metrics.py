"""Metrics in Prometheus' form: of all requests, and of each index and model that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "RequestMetrics", "ServiceMetrics", "metrics_text"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16_384)
JOBS = (1, 2, 4, 8, 16, 32, 64)


class RequestMetrics:
    """Counters of the requests of a server, whichever index answers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "aisle_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "aisle_request_seconds",
            "Seconds from the first byte of a request to the last byte of its response.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


class ServiceMetrics:
    """Counters of an index and a model that answer.

    Each service has its own registry, so a server may have several services, and they go with them.

    Args:
        queue_length: Function that returns the number of requests that wait.
    """

    def __init__(self, queue_length: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._phases = Histogram(
            "aisle_phase_seconds",
            "Seconds of a request in each phase: queue, embed, search, rerank.",
            ["phase"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batch_jobs = Histogram(
            "aisle_batch_requests",
            "Requests that are answered together.",
            buckets=JOBS,
            registry=self.registry,
        )
        self._batch_tokens = Histogram(
            "aisle_batch_tokens",
            "Tokens of a batch, about.",
            buckets=TOKENS,
            registry=self.registry,
        )
        waiting = Gauge("aisle_queue_requests", "Requests that wait.", registry=self.registry)
        waiting.set_function(queue_length)
        self._version = Gauge(
            "aisle_index_version", "Version of the index that answers.", registry=self.registry
        )
        self._products = Gauge(
            "aisle_index_products", "Products of the index that answers.", registry=self.registry
        )
        self._swaps = Gauge(
            "aisle_swaps",
            "Swaps of index and model since the start, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self._failing = Gauge(
            "aisle_swap_failing",
            "1 if a newer pair of index and model was refused and an older one answers.",
            registry=self.registry,
        )

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


class _Served(Collector):
    """The metrics of several services together, each with the name of its service as the label `index`.

    Args:
        requests: Metrics of all requests.
        services: Metrics of each service by its name.
    """

    def __init__(self, requests: RequestMetrics, services: Mapping[str, ServiceMetrics]) -> None:
        self._requests = requests
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once, with the samples of all services."""
        yield from self._requests.registry.collect()
        together: dict[str, Metric] = {}
        for name, service in self._services.items():
            for metric in service.registry.collect():
                into = together.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type, metric.unit)
                )
                into.samples += [
                    sample._replace(labels={"index": name, **sample.labels}) for sample in metric.samples
                ]
        yield from together.values()


def metrics_text(requests: RequestMetrics, services: Mapping[str, ServiceMetrics]) -> bytes:
    """Return all metrics in Prometheus' text format.

    Args:
        requests: Metrics of all requests.
        services: Metrics of each service by its name, which becomes the label `index`.
    """
    served = CollectorRegistry()
    served.register(_Served(requests, services))
    return generate_latest(served)
