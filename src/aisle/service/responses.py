"""Bodies of responses. Fields that do not apply to a request are left out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "ErrorBody",
    "ErrorResponse",
    "IndexName",
    "ModelName",
    "OpenAIEmbedding",
    "OpenAIEmbeddingsResponse",
    "OpenAIUsage",
    "SearchHit",
    "SearchResponse",
    "SearchResults",
    "TookMs",
]


class ResponseBody(BaseModel):
    """Part of a response; fields that were not set are left out of the JSON."""

    model_config = ConfigDict(frozen=True)


class SearchHit(ResponseBody):
    """A product that a search found."""

    id: str
    rank: int
    """Place among all hits of the query, from 1."""
    score: float
    """Score that orders the hits."""
    fields: dict[str, Any]
    """Columns of the product."""


class SearchResults(ResponseBody):
    """Hits of a query."""

    hits: list[SearchHit]


class IndexName(ResponseBody):
    """The index that answered."""

    version: int
    fingerprint: str
    """SHA-256 of the version's manifest, which has the checksums of all its files."""


class ModelName(ResponseBody):
    """The model that embedded the queries."""

    fingerprint: str
    name: str


class TookMs(ResponseBody):
    """Durations in milliseconds. Queries that wait at the same time are embedded together."""

    embed: float
    search: float


class SearchResponse(ResponseBody):
    """Response of `POST /search`: the results of a query, or `results` with those of several queries."""

    hits: list[SearchHit] | None = None
    results: list[SearchResults] | None = None
    index: IndexName
    model: ModelName | None = None
    took_ms: TookMs


class OpenAIEmbedding(ResponseBody):
    """Embedding of a text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class OpenAIUsage(ResponseBody):
    """Number of tokens that were embedded."""

    prompt_tokens: int
    total_tokens: int


class OpenAIEmbeddingsResponse(ResponseBody):
    """Response of `POST /v1/embeddings`."""

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class ErrorBody(ResponseBody):
    """An error, with the field of the request that is wrong."""

    type: str
    message: str
    field: str | None = None


class ErrorResponse(ResponseBody):
    """Response to a request that is refused or fails."""

    error: ErrorBody
