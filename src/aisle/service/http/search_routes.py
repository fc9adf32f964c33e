"""Routes that search and embed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends, Response
from pydantic_core import to_json

from aisle.service.engine import EmbedJob, SearchJob
from aisle.service.http.error_responses import error_schemas
from aisle.service.request_errors import RequestError
from aisle.service.requests import EmbedRequest, OpenAIEmbeddingsRequest, SearchRequest
from aisle.service.reranked_search import check_rerank
from aisle.service.responses import (
    OpenAIEmbedding,
    OpenAIEmbeddingsResponse,
    OpenAIUsage,
    SearchResponse,
)
from aisle.service.running_service import RunningService
from aisle.service.text_embedding import EmbeddedTexts, EmbedOptions

__all__ = [
    "JSON",
    "answer_embed",
    "answer_openai_embeddings",
    "answer_search",
    "embedded",
    "search_routes",
]

LOGGER = logging.getLogger("aisle.service")
JSON = "application/json"


def search_routes(service: RunningService, compared: RunningService | None = None) -> APIRouter:
    """Return the routes that search and embed; they need a key if the server has keys.

    Args:
        service: The service that answers.
        compared: The service of the base model; None if the server has none.
    """
    routes = APIRouter(
        dependencies=[Depends(service.check_key)],
        responses=error_schemas(400, 401, 410, 413, 422, 429, 501, 503, 504),
    )

    @routes.post("/search", response_model=SearchResponse)
    async def search(body: SearchRequest) -> Response:
        """Search for a query, several queries or an embedding."""
        return await answer_search(service, body, compared)

    @routes.post("/embed", response_model=list[list[float]])
    async def embed(body: EmbedRequest) -> Response:
        """Embed texts, in the form of Text Embeddings Inference."""
        return await answer_embed(service, body)

    @routes.post("/v1/embeddings", response_model=OpenAIEmbeddingsResponse)
    async def openai_embeddings(body: OpenAIEmbeddingsRequest) -> Response:
        """Embed texts, in the form of OpenAI."""
        return await answer_openai_embeddings(service, body)

    return routes


async def answer_search(
    service: RunningService, body: SearchRequest, compared: RunningService | None = None
) -> Response:
    """Answer a search.

    Args:
        service: The service that answers.
        body: The search.
        compared: The service of the base model; None if the server has none.

    Raises:
        RequestError: The base model is asked for and not served, or the search cannot be answered.
    """
    if body.pair == "base":
        if compared is None:
            raise RequestError(
                "invalid_search",
                "pair: this server has no base model; start it with --compare_index_dir",
                field="pair",
            )
        service = compared
    service.check_count(body.queries or [], "queries")
    check_rerank(service.engine.reranker, body, service.limits)
    if service.log_queries:
        LOGGER.info("search %s", to_json(body.model_dump(exclude={"vector"}, exclude_unset=True)).decode())
    _, written = await service.run(SearchJob(body), body.timeout_ms)
    return Response(written, media_type=JSON)


async def answer_embed(service: RunningService, body: EmbedRequest) -> Response:
    """Answer with embeddings, in the form of Text Embeddings Inference."""
    service.check_count(body.texts, "inputs")
    options = EmbedOptions(body.side, body.dimensions, truncate=body.truncate is not False)
    found = await embedded(service, EmbedJob(body.texts, options))
    return Response(to_json(found.embeddings.tolist()), media_type=JSON)


async def answer_openai_embeddings(service: RunningService, body: OpenAIEmbeddingsRequest) -> Response:
    """Answer with embeddings, in the form of OpenAI."""
    service.check_count(body.texts, "input")
    found = await embedded(service, EmbedJob(body.texts, EmbedOptions(body.side, body.dimensions)))
    as_text = body.encoding_format == "base64"
    vectors: Sequence[Any] = found.as_base64() if as_text else found.embeddings.tolist()
    answer = OpenAIEmbeddingsResponse(
        object="list",
        data=[
            OpenAIEmbedding(object="embedding", index=index, embedding=vector)
            for index, vector in enumerate(vectors)
        ],
        model=found.model,
        usage=OpenAIUsage(prompt_tokens=found.tokens, total_tokens=found.tokens),
    )
    return Response(answer.model_dump_json(), media_type=JSON)


async def embedded(service: RunningService, job: EmbedJob) -> EmbeddedTexts:
    """Return the embeddings of texts, once a worker has computed them."""
    found, _ = await service.run(job)
    assert isinstance(found, EmbeddedTexts)
    return found
