"""Bodies of requests: a search, and texts to embed in the forms of TEI and OpenAI."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from aisle.service.request_body import Body, Number, Query, ShortText, Text
from aisle.text.tokens import Side
from aisle.types.choices import SearchMode

__all__ = [
    "MAX_EXPLAINED",
    "MAX_HITS",
    "MAX_TOP_K",
    "MAX_WINDOW",
    "EmbedRequest",
    "OpenAIEmbeddingsRequest",
    "RerankOptions",
    "SearchRequest",
]

MAX_TOP_K = 1000
"""Most products of a query in a response."""
MAX_WINDOW = 10_000
"""Largest window of a request."""
MAX_HITS = 32_000
"""Most products that a request may ask for: queries times `top_k`, times `group_size` with `group_by`. The
memory of a response grows with them."""
MAX_EXPLAINED = 100
"""Most of them with `explain`, which reads every text of a product, and names every word of the query."""
MAX_TIMEOUT_MS = 60_000

SIDES: dict[str, Side] = {
    "query": "query",
    "search_query": "query",
    "product": "product",
    "passage": "product",
    "document": "product",
    "search_document": "product",
}
"""Side of a text by the names that other embedding services use."""


def _known_side(name: str) -> str:
    if name.strip().rstrip(":").lower() not in SIDES:
        raise PydanticCustomError("unknown_side", "must be query or product")
    return name


SideName = Annotated[str, AfterValidator(_known_side)]


class RerankOptions(Body):
    """The products of a search that the server's reranker orders again."""

    top_n: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = 50
    """First products to order by their score from the reranker; the others follow in the search's order.
    Pages of the same search agree if they have the same `top_n`."""


class SearchRequest(Body):
    """A search: a query, several queries, or an embedding."""

    query: Query | None = None
    """Text to search for."""
    queries: Annotated[list[Query], Field(min_length=1)] | None = None
    """Several texts to search for; the response has a list of results."""
    vector: Annotated[list[Number], Field(min_length=1, max_length=65_536)] | None = None
    """Embedding of the query, of unit norm. Give the query as well for the modes lexical and hybrid."""
    top_k: Annotated[int, Field(ge=0, le=MAX_TOP_K)] = 10
    """Products per page; 0 for the total and the facets alone."""
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Products before the page."""
    filter: ShortText | None = None
    """Condition on the products, such as `price <= 50 and brand in ['Acme', 'Zenith']`."""
    facets: Annotated[list[Text], Field(max_length=100)] | None = None
    """Columns whose values are counted, over all products that the total counts."""
    facet_size: Annotated[int, Field(ge=1, le=1000)] = 10
    """Most values of a facet."""
    group_by: Text | None = None
    """Column by which hits are grouped, such as the parent of variants; pages then count groups."""
    group_size: Annotated[int, Field(ge=1, le=100)] = 1
    """Most hits of a group."""
    min_score: Number | Literal["calibrated"] | None = None
    """Lowest score of a hit: the cosine in the modes dense and hybrid, the BM25 score in lexical.
    `calibrated`: a probability of relevance of at least `p`, if the index is calibrated."""
    p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Lowest probability of relevance for `calibrated`; 0.5 if it is left out."""
    mode: SearchMode | None = None
    """Search by embeddings, by words or by both; the server's mode if it is left out."""
    fields: Annotated[list[Text], Field(max_length=1000)] | None = None
    """Columns of the products to return; all if it is left out."""
    rerank: RerankOptions | None = None
    """Order the first products by the server's reranker; not together with `explain`."""
    highlight: bool = False
    """Whether to return where the columns of a hit have words of the query."""
    explain: bool = False
    """Whether to return why each hit has its rank; for at most 100 hits in a request."""
    exact: bool | None = None
    """Whether to compare with every product instead of searching the graph."""
    ef: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Candidates kept while searching the graph; at least the window and one more."""
    window: Annotated[int, Field(ge=1, le=MAX_WINDOW)] | None = None
    """Most best products that pages, facets and groups come from; the server's window if it is left out."""
    pair: Literal["tuned", "base"] | None = None
    """Model and index that answer: the server's own (`tuned`, the default), or the base model's, if the
    server has them to compare."""
    version: Annotated[int, Field(ge=1)] | None = None
    """Number of the index's version that must answer. Two indexes may have a version of the same number; the
    current one answers then."""
    fingerprint: Annotated[str, Field(max_length=64)] | None = None
    """Fingerprint of the index that must answer: `index.fingerprint` of the response with the first page."""
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS)] | None = None
    """Milliseconds after which the server answers with 504; the server's limit if it is left out."""

    @model_validator(mode="after")
    def _one_kind_of_query(self) -> SearchRequest:
        given = [name for name in ("query", "queries", "vector") if getattr(self, name) is not None]
        if not given or (len(given) > 1 and given != ["query", "vector"]):
            raise PydanticCustomError(
                "query_needed",
                "give query, queries or vector, or query with its vector; found {found}",
                {"found": " and ".join(given) or "none of them"},
            )
        return self

    @model_validator(mode="after")
    def _not_too_many_hits(self) -> SearchRequest:
        hits = max(1, len(self.texts)) * self.top_k * (1 if self.group_by is None else self.group_size)
        most, what = (MAX_EXPLAINED, "explained hits") if self.explain else (MAX_HITS, "hits")
        if hits > most:
            raise PydanticCustomError(
                "too_many_hits",
                "at most {most} {what} in a request (queries x top_k{groups}), found {hits}; ask for "
                "fewer, or for pages with offset",
                {
                    "field": "top_k",
                    "most": most,
                    "what": what,
                    "hits": hits,
                    "groups": "" if self.group_by is None else " x group_size",
                },
            )
        return self

    @model_validator(mode="after")
    def _reranked_by_texts(self) -> SearchRequest:
        if self.rerank is None:
            return self
        if not self.texts:
            raise PydanticCustomError(
                "query_needed", "reads the query: give it beside its vector", {"field": "rerank"}
            )
        if self.explain:
            raise PydanticCustomError(
                "not_explained",
                "explain is of the search's own order; leave one of them out",
                {"field": "rerank"},
            )
        return self

    @property
    def texts(self) -> list[str]:
        """Texts of the queries; empty if there is only a vector."""
        if self.queries is not None:
            return self.queries
        return [] if self.query is None else [self.query]


class EmbedRequest(Body):
    """Texts to embed, in the form of Text Embeddings Inference (`POST /embed`)."""

    inputs: Text | Annotated[list[Text], Field(min_length=1)]
    """A text, or a list of texts."""
    normalize: Literal[True] = True
    """Embeddings always have unit norm."""
    truncate: bool | None = None
    """With false, a text that is longer than the encoder's maximum length is an error."""
    truncation_direction: Literal["right", "Right"] = "right"
    """A long text loses its end."""
    prompt_name: SideName | None = None
    """`query` or `product`: whether the texts are queries (the default) or products."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Leading components to keep."""

    @property
    def texts(self) -> list[str]:
        """The texts."""
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs

    @property
    def side(self) -> Side:
        """Side of the texts."""
        return _side_named(self.prompt_name)


class OpenAIEmbeddingsRequest(Body):
    """Texts to embed, in the form of OpenAI (`POST /v1/embeddings`)."""

    input: Text | Annotated[list[Text], Field(min_length=1)]
    """A text, or a list of texts. Token numbers of another model's tokenizer are refused."""
    model: Text | None = None
    """Name of the model; any name is accepted, and the response has that of the model that answered."""
    encoding_format: Literal["float", "base64"] = "float"
    """Embeddings as lists of numbers, or as base64 of little-endian float32."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Leading components to keep."""
    user: Text | None = None
    """Ignored."""
    input_type: SideName | None = None
    """`query` or `product`: whether the texts are queries (the default) or products."""

    @property
    def texts(self) -> list[str]:
        """The texts."""
        return [self.input] if isinstance(self.input, str) else self.input

    @property
    def side(self) -> Side:
        """Side of the texts."""
        return _side_named(self.input_type)


def _side_named(name: str | None) -> Side:
    return "query" if name is None else SIDES[name.strip().rstrip(":").lower()]
