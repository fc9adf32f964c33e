"""Routes that describe the server, and probes for a load balancer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Response
from pydantic_core import to_json

from aisle.service.http.error_responses import error_schemas
from aisle.service.request_errors import RequestError
from aisle.service.running_service import RunningService
from aisle.service.service_info import service_info
from aisle.service.service_metrics import CONTENT_TYPE, RequestMetrics, metrics_text
from aisle.service.worker_threads import run_in_worker

__all__ = ["admin_routes", "probe_routes", "status_routes"]


def status_routes(
    service: RunningService, compared: RunningService | None, requests: RequestMetrics
) -> APIRouter:
    """Return the routes that describe the server; they need a key if the server has keys.

    Args:
        service: The service that answers.
        compared: The service of the base model; None if the server has none.
        requests: Metrics of all requests.
    """
    services = {"tuned": service, **({} if compared is None else {"base": compared})}
    routes = APIRouter(dependencies=[Depends(service.check_key)], responses=error_schemas(401, 503))

    @routes.get("/info")
    async def info() -> Response:
        """Describe the index, the model and the limits."""
        described = service_info(service.engine.pair, service.engine.reranker, service.limits)
        if service.swapper is not None:
            described["swaps"] = asdict(service.swapper.status)
        described["pairs"] = list(services)
        return Response(to_json(described), media_type="application/json")

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        measured = {name: each.measure() for name, each in services.items()}
        return Response(metrics_text(requests, measured), media_type=CONTENT_TYPE)

    return routes


def admin_routes(service: RunningService) -> APIRouter:
    """Return the routes that change the server; they need a key, and servers without keys have none."""

    async def with_key() -> None:
        if service.keys is None:
            raise RequestError("unauthorized", "only a server with --api_key_file can be told to reload")

    routes = APIRouter(
        dependencies=[Depends(with_key), Depends(service.check_key)],
        responses=error_schemas(401, 404, 409, 503),
    )

    @routes.post("/admin/reload")
    async def reload() -> dict[str, int | bool]:
        """Load and check the current pair and switch to it; 409 if it is refused and the old one stays."""
        if service.swapper is None:
            raise RequestError("not_found", "this server never changes its index and model")
        _ = service.engine.pair  # 503 while the first pair is being loaded
        swapped = await run_in_worker(service.swapper.swap, again=True)
        return {"swapped": swapped, "version": service.engine.pair.version}

    return routes


def probe_routes(service: RunningService, compared: RunningService | None = None) -> APIRouter:
    """Return the routes that a load balancer asks, without a key.

    Args:
        service: The service that answers.
        compared: The service of the base model; None if the server has none.
    """
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, str]:
        """Answer while the process lives."""
        return {"status": "ok"}

    @routes.get("/ready", responses=error_schemas(503))
    async def ready() -> dict[str, Any]:
        """Answer 200 once the index and the model are loaded and have answered a query, 503 before.

        With a base model beside them, its index and model count too.
        """
        answer: dict[str, Any] = {"version": service.engine.pair.version}
        if compared is not None:
            answer["base"] = {"version": compared.engine.pair.version}
        return answer

    return routes
