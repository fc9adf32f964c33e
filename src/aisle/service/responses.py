"""Bodies of responses. Fields that do not apply to a request are left out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "ErrorBody",
    "ErrorResponse",
    "FacetCount",
    "FacetCounts",
    "HitGroup",
    "IndexName",
    "ModelName",
    "OpenAIEmbedding",
    "OpenAIEmbeddingsResponse",
    "OpenAIUsage",
    "ResponseBody",
    "SearchHit",
    "SearchResponse",
    "SearchResults",
    "SearchTotal",
    "TookMs",
]


class ResponseBody(BaseModel):
    """Part of a response; fields that were not set are left out of the JSON."""

    model_config = ConfigDict(frozen=True)


class HitGroup(ResponseBody):
    """Group of a hit."""

    value: Any
    """Value of the column; null for a product without a value, which is a group alone."""
    count: int
    """Products of the candidate set in the group."""


class SearchHit(ResponseBody):
    """A product that a search found."""

    id: str
    rank: int
    """Place among all hits of the query, from 1."""
    score: float
    """Score that orders the hits; with `rerank`, `scores.rerank` orders the first ones."""
    scores: dict[str, float]
    """Scores by name: `dense` (cosine), `bm25`, `fused`, as far as the mode has them; `rerank` of products
    that the reranker scored."""
    ranks: dict[str, int]
    """Ranks by `dense` and `bm25`; a side that did not find the product is left out."""
    fields: dict[str, Any]
    """Columns of the product."""
    unreadable: list[str] | None = None
    """Columns with a value that cannot be written, such as a date after the year 9999: it is null."""
    highlights: dict[str, list[tuple[int, int]]] | None = None
    """Spans with words of the query by column, as start and end in code points; with `highlight`."""
    explain: dict[str, Any] | None = None
    """Why the hit has its rank: words, scores, ranks, filter, version, and all as `text`; with `explain`."""
    group: HitGroup | None = None
    """Group of the hit, if the request has `group_by`."""


class SearchTotal(ResponseBody):
    """Number of products that the query finds."""

    value: int
    relation: Literal["eq", "gte"]
    """`gte` if the window may have cut products off."""
    groups: int | None = None
    """Number of groups among them, if the request has `group_by`."""


class FacetCount(ResponseBody):
    """Number of products with a value."""

    value: Any
    count: int


class FacetCounts(ResponseBody):
    """Values of a column among all products of the total, the most frequent first."""

    values: list[FacetCount]
    missing: int
    """Products without a value."""
    other: int
    """Sum of the counts of all further values."""


class SearchResults(ResponseBody):
    """Results of a query. Total, facets, groups and every page come from the same set of products."""

    hits: list[SearchHit]
    total: SearchTotal
    facets: dict[str, FacetCounts] | None = None


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
    """The rerank stage is not included."""
    rerank: float | None = None
    """Of the request's own products, with `rerank`."""


class SearchResponse(ResponseBody):
    """Response of `POST /search`: the results of a query, or `results` with those of several queries."""

    hits: list[SearchHit] | None = None
    total: SearchTotal | None = None
    facets: dict[str, FacetCounts] | None = None
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
