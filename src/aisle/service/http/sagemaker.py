"""SageMaker's calls to a container: health checks, and requests whose form follows from their fields.

Contract: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from pydantic_core import from_json, to_json

from aisle.service.engine import EmbedJob
from aisle.service.http.error_responses import error_schemas
from aisle.service.http.rerank_routes import answer_cohere_rerank, answer_rerank
from aisle.service.http.search_routes import (
    JSON,
    answer_embed,
    answer_openai_embeddings,
    answer_search,
    embedded,
)
from aisle.service.request_body import Body, Query
from aisle.service.request_errors import RequestError
from aisle.service.requests import EmbedRequest, OpenAIEmbeddingsRequest, SearchRequest
from aisle.service.rerank_forms import CohereRerankRequest, RerankRequest
from aisle.service.running_service import RunningService
from aisle.service.text_embedding import EmbedOptions

__all__ = ["MAX_BODY_BYTES", "ScoresRequest", "answer_invocation", "sagemaker_routes"]

MAX_BODY_BYTES = 6 * 1024 * 1024
"""Most bytes of a request that SageMaker passes on; a serverless endpoint takes 4 MB."""
MAX_TEXTS = 256
"""Most texts that a query is compared with in a request."""

AnyBody = TypeVar("AnyBody", bound=Body)


class ScoresRequest(Body):
    """A query, and texts to compare it with, such as the questions of an FAQ."""

    query_from_app: Query
    """The query."""
    actual_queries: Annotated[list[Query], Field(min_length=1, max_length=MAX_TEXTS)]
    """Texts; they are embedded as queries too."""


def sagemaker_routes(service: RunningService) -> APIRouter:
    """Return the routes of a container with one model."""
    routes = APIRouter()

    @routes.get("/ping", responses=error_schemas(503))
    async def ping() -> Response:
        """Answer 200 once the index and the model are loaded and have answered a query, 503 before."""
        _ = service.engine.pair
        return Response()

    @routes.post(
        "/invocations",
        dependencies=[Depends(service.check_key)],
        responses=error_schemas(400, 401, 410, 413, 422, 429, 503, 504),
    )
    async def invocations(request: Request) -> Response:
        """Answer a request in any of the forms: a search, texts to embed, rank or compare."""
        return await answer_invocation(service, await request.body())

    return routes


async def answer_invocation(service: RunningService, body: bytes) -> Response:
    """Answer a request, the form of which follows from its fields.

    Args:
        service: The running service.
        body: The body, in JSON; the header Content-Type is ignored.

    Raises:
        RequestError: The body is no JSON, or the request cannot be answered.
        RequestValidationError: A field is wrong.
    """
    try:
        given = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError("invalid_json", f"the body is not valid JSON: {error}") from None
    fields = set(given) if isinstance(given, dict) else set()
    for names, answer in _FORMS:
        if fields & names:
            return await answer(service, body)
    return await _search(service, body)


async def _search(service: RunningService, body: bytes) -> Response:
    return await answer_search(service, _checked(SearchRequest, body))


async def _embed(service: RunningService, body: bytes) -> Response:
    return await answer_embed(service, _checked(EmbedRequest, body))


async def _openai_embeddings(service: RunningService, body: bytes) -> Response:
    return await answer_openai_embeddings(service, _checked(OpenAIEmbeddingsRequest, body))


async def _rerank(service: RunningService, body: bytes) -> Response:
    return await answer_rerank(service, _checked(RerankRequest, body))


async def _cohere_rerank(service: RunningService, body: bytes) -> Response:
    return await answer_cohere_rerank(service, _checked(CohereRerankRequest, body), "2")


async def _scores(service: RunningService, body: bytes) -> Response:
    """Return the texts with their cosine to the query, the nearest first."""
    request = _checked(ScoresRequest, body)
    texts = [request.query_from_app, *request.actual_queries]
    found = (await embedded(service, EmbedJob(texts, EmbedOptions("query")))).embeddings
    cosines = found[1:] @ found[0]
    order = np.argsort(-cosines, kind="stable")
    scores: list[list[Any]] = [[request.actual_queries[row], float(cosines[row])] for row in order]
    return Response(to_json({"Scores": scores}), media_type=JSON)


def _checked(form: type[AnyBody], body: bytes) -> AnyBody:
    """Return the body as the form requires it, with errors as FastAPI raises them."""
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(problems) from None


Answerer = Callable[[RunningService, bytes], Awaitable[Response]]
_FORMS: tuple[tuple[set[str], Answerer], ...] = (
    ({"query_from_app", "actual_queries"}, _scores),
    ({"inputs"}, _embed),
    ({"input"}, _openai_embeddings),
    ({"texts"}, _rerank),
    ({"documents"}, _cohere_rerank),
)
"""Fields that only one form has, and the function that answers it; a body without them is a search."""
