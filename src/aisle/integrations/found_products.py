"""What a retriever asks for, and the products that it finds, as every framework needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aisle.data.templates import TextTemplate, parse_template
from aisle.errors import ConfigError, SearchError
from aisle.types.choices import MinScore, SearchMode
from aisle.types.columns import ID_COLUMN

__all__ = ["SEARCH_KEY", "FoundProduct", "RetrieverOptions"]

SEARCH_KEY = "aisle"
"""Key of a document's metadata with the scores, the ranks and the index version."""


@dataclass(frozen=True)
class FoundProduct:
    """A product that a search found."""

    product_id: str
    rank: int
    """Place among the results, from 1."""
    score: float
    """Score that orders the results: cosine, BM25 or fused; higher is better."""
    scores: dict[str, float]
    """Scores by name: "dense" (cosine), "bm25" and "fused", as far as the mode has them."""
    ranks: dict[str, int]
    """Ranks by "dense" and "bm25"; only sides that found the product."""
    fields: dict[str, Any]
    """Columns of the product, as JSON has them."""
    index_version: int
    """Version of the index that answered."""


@dataclass(frozen=True)
class RetrieverOptions:
    """Settings of a retriever's searches.

    Args:
        top_k: Most documents per query, at least 1.
        filter: Condition on the products, such as `price <= 50 and in_stock`.
        mode: Search by embeddings ("dense"), by words ("lexical") or by both ("hybrid"); None is the mode of
            the searcher or service.
        min_score: Lowest score of a document: cosine, in mode "lexical" BM25. "calibrated" needs the
            probability `p`; see `aisle calibrate`.
        p: Lowest probability of relevance for "calibrated"; None is 0.5.
        fields: Columns in a document's metadata; None is all.
        text_template: Text of a document, for example `"{title} by {brand}"`; None is a line `name: value`
            for each column in the metadata.

    Raises:
        SearchError: `top_k` is below 1.
        ConfigError: `text_template` has unmatched braces or no column.
    """

    top_k: int = 10
    filter: str | None = None
    mode: SearchMode | None = None
    min_score: MinScore | None = None
    p: float | None = None
    fields: Sequence[str] | None = None
    text_template: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 1:
            raise SearchError(f"top_k: must be a whole number of at least 1, found {self.top_k!r}")
        if isinstance(self.fields, str):
            raise SearchError(f"fields: must be a list of columns, found the text {self.fields!r}")
        _parsed(self.text_template)

    @property
    def columns(self) -> list[str] | None:
        """Columns to read for metadata and text; None is all."""
        template = _parsed(self.text_template)
        if self.fields is None:
            return None
        return list(dict.fromkeys([*self.fields, *(template.fields if template else ())]))

    def text_of(self, product: FoundProduct) -> str:
        """Return the text of a product's document.

        Raises:
            SearchError: The index has no column that the template names.
        """
        template = _parsed(self.text_template)
        if template is None:
            return _lines(self._shown(product))
        for name in template.fields:
            if name not in product.fields:
                raise SearchError(
                    f"text_template: the index has no column {name!r}; it has {', '.join(product.fields)}"
                )
        rendered = template.render(product.fields)
        return rendered if isinstance(rendered, str) else ""

    def metadata_of(self, product: FoundProduct) -> dict[str, Any]:
        """Return a document's metadata: the columns, the id, and the figures of the search."""
        figures = {
            "rank": product.rank,
            "score": product.score,
            "scores": product.scores,
            "ranks": product.ranks,
            "index_version": product.index_version,
        }
        return {**self._shown(product), ID_COLUMN: product.product_id, SEARCH_KEY: figures}

    def _shown(self, product: FoundProduct) -> dict[str, Any]:
        names = product.fields if self.fields is None else self.fields
        return {name: product.fields[name] for name in names}


def _parsed(template: str | None) -> TextTemplate | None:
    try:
        return None if template is None else parse_template(template)
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("--")) from None


def _lines(values: Mapping[str, Any]) -> str:
    """Return a line for each value that is not blank."""
    lines = []
    for name in values:
        text = TextTemplate((("", name),)).render(values)
        if isinstance(text, str):
            lines.append(f"{name}: {text}")
    return "\n".join(lines)
