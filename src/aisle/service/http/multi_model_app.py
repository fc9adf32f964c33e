"""The HTTP application of a container whose models SageMaker loads and unloads.

Contract: https://docs.aws.amazon.com/sagemaker/latest/dg/mms-container-apis.html
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from pydantic import Field

from aisle.service.http.error_responses import add_error_handlers, error_schemas
from aisle.service.http.http_limits import AnswerAtShutdown, BodyLimits, Timing
from aisle.service.http.sagemaker import answer_invocation
from aisle.service.packages.loaded_models import LoadedModel, LoadedModels
from aisle.service.request_body import Body
from aisle.service.running_service import STOP_SECONDS
from aisle.service.service_limits import ServiceLimits
from aisle.service.service_metrics import CONTENT_TYPE, RequestMetrics, metrics_text
from aisle.service.worker_threads import run_in_worker
from aisle.version import __version__

__all__ = ["create_multi_model_app"]

PAGE = 100
"""Models on a page of the list."""


class LoadRequest(Body):
    """A model to load."""

    model_name: Annotated[str, Field(min_length=1, max_length=1024)]
    """Name for further calls."""
    url: Annotated[str, Field(min_length=1, max_length=4096)]
    """Folder of the package, in which SageMaker has unpacked its model.tar.gz."""


def create_multi_model_app(models: LoadedModels, *, max_body_bytes: int) -> FastAPI:
    """Return the application.

    Args:
        models: The models in memory.
        max_body_bytes: Most bytes of a body.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_worker(models.close, STOP_SECONDS)

    app = FastAPI(title="aisle", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    add_error_handlers(app)
    app.add_middleware(BodyLimits, max_bytes=max_body_bytes, seconds=ServiceLimits().body_seconds)
    app.add_middleware(AnswerAtShutdown)

    requests = RequestMetrics()
    app.add_middleware(Timing, observe=requests.observe)

    @app.get("/ping")
    @app.get("/health")
    async def ping() -> Response:
        """Answer while the process lives: models are loaded on demand."""
        return Response()

    @app.get("/ready")
    async def ready() -> dict[str, dict[str, int]]:
        """Return the index version of each loaded model; a model answers as soon as it is loaded."""
        return {"models": {model.name: model.service.engine.pair.version for model in models.all()}}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return the metrics of all requests and of each loaded model in Prometheus' text format."""
        measured = {model.name: model.service.measure() for model in models.all()}
        return Response(metrics_text(requests, measured), media_type=CONTENT_TYPE)

    @app.post("/models", responses=error_schemas(400, 409, 413, 422, 507))
    async def load(body: LoadRequest) -> dict[str, str]:
        """Load a model: 409 if the name is in use, 507 if there is too little memory."""
        await run_in_worker(models.load, body.model_name, body.url)
        return _described(models[body.model_name])

    @app.get("/models")
    async def list_models(
        next_page_token: Annotated[str | None, Query()] = None,
    ) -> dict[str, list[dict[str, str]] | str]:
        """List the loaded models, in pages; `nextPageToken` is the name after which the next page begins."""
        after = [model for model in models.all() if next_page_token is None or model.name > next_page_token]
        page = after[:PAGE]
        token = {"nextPageToken": page[-1].name} if len(after) > PAGE else {}
        return {"models": [_described(model) for model in page], **token}

    @app.get("/models/{model_name:path}", responses=error_schemas(404))
    async def get_model(model_name: str) -> dict[str, str]:
        """Describe a loaded model."""
        return _described(models[model_name])

    @app.delete("/models/{model_name:path}", responses=error_schemas(404))
    async def unload(model_name: str) -> dict[str, str]:
        """Unload a model when its requests are finished."""
        described = _described(models[model_name])
        await run_in_worker(models.unload, model_name)
        return described

    @app.post("/models/{model_name:path}/invoke", responses=error_schemas(400, 404, 413, 422, 429, 503, 504))
    async def invoke(model_name: str, request: Request) -> Response:
        """Answer a request with a loaded model, in any of the forms of /invocations."""
        return await answer_invocation(models[model_name].service, await request.body())

    return app


def _described(model: LoadedModel) -> dict[str, str]:
    """Return a model as SageMaker names it."""
    return {"modelName": model.name, "modelUrl": model.url}
