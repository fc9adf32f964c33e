"""Bodies of requests that score texts for a query, and of their responses, in the forms of TEI and Cohere."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from aisle.service.request_body import Body, Query, Text, not_blank
from aisle.service.responses import ResponseBody

__all__ = [
    "CohereApiVersion",
    "CohereDocument",
    "CohereMeta",
    "CohereRerankRequest",
    "CohereRerankResponse",
    "CohereResult",
    "RankedText",
    "RerankRequest",
]

RankableText = Annotated[Text, AfterValidator(not_blank)]


class RerankRequest(Body):
    """Texts to rank for a query, in the form of Text Embeddings Inference (`POST /rerank`)."""

    query: Query
    """The query."""
    texts: Annotated[list[RankableText], Field(min_length=1)]
    """The texts."""
    raw_scores: bool = False
    """Whether to return the model's logits instead of their sigmoid."""
    return_text: bool = False
    """Whether to return each text beside its score."""
    truncate: bool | None = None
    """With false, a text that is too long for the reranker is an error."""


class RankedText(ResponseBody):
    """Score of a text."""

    index: int
    """Place of the text in the request, from 0."""
    score: float
    """Probability of relevance as the model gives it; its logit with `raw_scores`."""
    text: str | None = None


class CohereDocument(Body):
    """A text as an object."""

    text: RankableText


class CohereRerankRequest(Body):
    """Texts to rank for a query, in the form of Cohere (`POST /v1/rerank` and `POST /v2/rerank`)."""

    model: Text | None = None
    """Name of the model; any name is accepted, and the server's reranker answers."""
    query: Query
    """The query."""
    documents: Annotated[list[RankableText | CohereDocument], Field(min_length=1)]
    """The texts, or objects with the field `text`. The reranker cuts a long text."""
    top_n: Annotated[int, Field(ge=1)] | None = None
    """Most results; all if it is left out."""
    return_documents: bool = False
    """Whether to return each text beside its score."""

    @property
    def texts(self) -> list[str]:
        """The texts."""
        return [given if isinstance(given, str) else given.text for given in self.documents]


class CohereResult(ResponseBody):
    """Score of a text."""

    index: int
    """Place of the text in the request, from 0."""
    relevance_score: float
    """Probability of relevance as the model gives it."""
    document: CohereDocument | None = None


class CohereApiVersion(ResponseBody):
    """Version of the form."""

    version: str


class CohereMeta(ResponseBody):
    """What Cohere's clients expect beside the results."""

    api_version: CohereApiVersion


class CohereRerankResponse(ResponseBody):
    """Response in the form of Cohere: the texts, the most relevant first."""

    id: str
    results: list[CohereResult]
    meta: CohereMeta
