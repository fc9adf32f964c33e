"""Routes that rank texts for a query, in the forms of Text Embeddings Inference and Cohere."""

from __future__ import annotations

import uuid
from typing import Literal

from fastapi import APIRouter, Depends, Response
from pydantic_core import to_json

from aisle.service.http.error_responses import error_schemas
from aisle.service.http.search_routes import JSON
from aisle.service.rerank_forms import (
    CohereApiVersion,
    CohereDocument,
    CohereMeta,
    CohereRerankRequest,
    CohereRerankResponse,
    CohereResult,
    RankedText,
    RerankRequest,
)
from aisle.service.reranked_texts import RerankedTexts, RerankJob, no_reranker
from aisle.service.running_service import RunningService

__all__ = ["answer_cohere_rerank", "answer_rerank", "rerank_routes"]


def rerank_routes(service: RunningService) -> APIRouter:
    """Return the routes; they need a key if the server has keys."""
    routes = APIRouter(
        dependencies=[Depends(service.check_key)],
        responses=error_schemas(400, 401, 413, 422, 429, 501, 503, 504),
    )

    @routes.post("/rerank", response_model=list[RankedText])
    async def rerank(body: RerankRequest) -> Response:
        """Rank texts for a query, in the form of Text Embeddings Inference; 501 without a reranker."""
        return await answer_rerank(service, body)

    @routes.post("/v1/rerank", response_model=CohereRerankResponse)
    async def cohere_rerank_v1(body: CohereRerankRequest) -> Response:
        """Rank texts for a query, in the form of Cohere, version 1; 501 without a reranker."""
        return await answer_cohere_rerank(service, body, "1")

    @routes.post("/v2/rerank", response_model=CohereRerankResponse)
    async def cohere_rerank_v2(body: CohereRerankRequest) -> Response:
        """Rank texts for a query, in the form of Cohere, version 2; 501 without a reranker."""
        return await answer_cohere_rerank(service, body, "2")

    return routes


async def answer_rerank(service: RunningService, body: RerankRequest) -> Response:
    """Answer with ranked texts, in the form of Text Embeddings Inference."""
    job = RerankJob(body.query, body.texts, truncate=body.truncate is not False)
    found = await _reranked(service, job, "texts")
    scores = (found.logits if body.raw_scores else found.probabilities).tolist()
    ranked = [
        RankedText(index=at, score=scores[at], **({"text": body.texts[at]} if body.return_text else {}))
        for at in found.order
    ]
    return Response(to_json([text.model_dump(exclude_unset=True) for text in ranked]), media_type=JSON)


async def answer_cohere_rerank(
    service: RunningService, body: CohereRerankRequest, version: Literal["1", "2"]
) -> Response:
    """Answer with ranked texts, in the form of Cohere."""
    texts = body.texts
    found = await _reranked(service, RerankJob(body.query, texts), "documents")
    scores = found.probabilities.tolist()
    ranked = [
        CohereResult(
            index=at,
            relevance_score=scores[at],
            **({"document": CohereDocument(text=texts[at])} if body.return_documents else {}),
        )
        for at in found.order[: body.top_n]
    ]
    answer = CohereRerankResponse(
        id=str(uuid.uuid4()),
        results=ranked,
        meta=CohereMeta(api_version=CohereApiVersion(version=version)),
    )
    return Response(answer.model_dump_json(exclude_unset=True), media_type=JSON)


async def _reranked(service: RunningService, job: RerankJob, field: str) -> RerankedTexts:
    """Return the scores of texts, once a worker has computed them.

    Raises:
        RequestError: The server has no reranker, there are too many texts, or the job cannot be answered.
    """
    if service.engine.reranker is None:
        raise no_reranker()
    service.check_count(job.documents, field, most=service.limits.max_rerank_texts)
    found, _ = await service.run(job)
    assert isinstance(found, RerankedTexts)
    return found
