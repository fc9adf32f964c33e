"""The HTTP application: routes, errors, limits, and threads that start and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from aisle.service.api_keys import ApiKeys
from aisle.service.engine import Engine
from aisle.service.http.demo_routes import demo_routes
from aisle.service.http.error_responses import add_error_handlers
from aisle.service.http.http_limits import AnswerAtShutdown, BodyLimits, Timing
from aisle.service.http.rerank_routes import rerank_routes
from aisle.service.http.sagemaker import sagemaker_routes
from aisle.service.http.search_routes import search_routes
from aisle.service.http.status_routes import admin_routes, probe_routes, status_routes
from aisle.service.pairs.swap import PairSwapper
from aisle.service.running_service import STOP_SECONDS, RunningService
from aisle.service.service_limits import ServiceLimits
from aisle.service.service_metrics import RequestMetrics
from aisle.service.worker_threads import run_in_worker
from aisle.version import __version__

__all__ = ["create_app"]


def create_app(
    engine: Engine,
    *,
    limits: ServiceLimits | None = None,
    keys: ApiKeys | None = None,
    log_queries: bool = False,
    sagemaker: bool = False,
    swapper: PairSwapper | None = None,
    base: RunningService | None = None,
    demo: bool = False,
) -> FastAPI:
    """Return the application that answers with an engine.

    Args:
        engine: The engine. It may still have no pair; searches are answered with 503 until it has.
        limits: Limits of the server.
        keys: API keys; None accepts every request.
        log_queries: Whether to log the texts of queries.
        sagemaker: Whether to answer SageMaker's calls too.
        swapper: Loads the first pair and keeps the engine on the current pair; None if the pair never
            changes.
        base: The base model and its index, which answer requests with `"pair": "base"`; None refuses them.
        demo: Whether to serve the demo page.
    """
    service = RunningService(engine, limits or ServiceLimits(), keys, log_queries, swapper)
    running = [service] if base is None else [service, base]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for each in running:
            each.start()
        yield
        await asyncio.gather(*(run_in_worker(each.stop, STOP_SECONDS) for each in running))

    # No pages of documentation: they load scripts from another site.
    app = FastAPI(title="aisle", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    add_error_handlers(app)
    app.add_middleware(
        BodyLimits, max_bytes=service.limits.max_body_bytes, seconds=service.limits.body_seconds
    )
    app.add_middleware(AnswerAtShutdown)
    requests = RequestMetrics()
    app.add_middleware(Timing, observe=requests.observe)
    for routes in (
        search_routes(service, base),
        rerank_routes(service),
        status_routes(service, base, requests),
        admin_routes(service),
        probe_routes(service, base),
    ):
        app.include_router(routes)
    if demo:
        app.include_router(demo_routes())
    if sagemaker:
        app.include_router(sagemaker_routes(service))
    return app
