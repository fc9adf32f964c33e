"""A retriever for Haystack."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aisle.errors import ConfigError
from aisle.extras import require_extra
from aisle.integrations.found_products import RetrieverOptions
from aisle.integrations.product_search import TIMEOUT_SECONDS, product_search
from aisle.search.searcher import Searcher
from aisle.types.choices import MinScore, SearchMode

require_extra("haystack")

from haystack import Document, component, default_from_dict, default_to_dict  # noqa: E402
from haystack.utils import Secret, deserialize_secrets_inplace  # noqa: E402

__all__ = ["HaystackRetriever"]


# Haystack reads the types of `run` from its signature, so annotations must not be texts in this module.
@component
class HaystackRetriever:
    """Products as documents of Haystack, from an open searcher or a service."""

    def __init__(
        self,
        source: Searcher | str,
        *,
        top_k: int = 10,
        filter: str | None = None,  # noqa: A002
        mode: SearchMode | None = None,
        min_score: MinScore | None = None,
        p: float | None = None,
        fields: Sequence[str] | None = None,
        text_template: str | None = None,
        api_key: Secret | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """Retrieve from a searcher or service.

        Args:
            source: An open searcher (`aisle.open_searcher`), or the URL of a service (`aisle serve`).
            top_k: Most documents per query, at least 1.
            filter: Condition on the products, such as `price <= 50 and in_stock`.
            mode: "dense", "lexical" or "hybrid"; None is the mode of the searcher or service.
            min_score: Lowest score of a document; "calibrated" needs the probability `p`.
            p: Lowest probability of relevance for "calibrated".
            fields: Columns in the metadata; None is all.
            text_template: Text of a document, for example `"{title} by {brand}"`; None is a line for each
                column.
            api_key: Key of the service.
            timeout: Seconds to wait for the service.

        Raises:
            AisleError: A setting is not valid.
        """
        self.source = source
        self.options = RetrieverOptions(top_k, filter, mode, min_score, p, fields, text_template)
        self.api_key = api_key
        self.timeout = timeout
        key = None if api_key is None else api_key.resolve_value()
        self._search = product_search(source, api_key=key, timeout=timeout)

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        top_k: int | None = None,
        filter: str | None = None,  # noqa: A002
    ) -> dict[str, list[Document]]:
        """Return the best products of a query as `documents`.

        Args:
            query: Text to search for.
            top_k: Most documents, in place of the retriever's.
            filter: Condition on the products, in place of the retriever's.

        Raises:
            SearchError: The search cannot be answered.
        """
        options = replace(
            self.options,
            top_k=self.options.top_k if top_k is None else top_k,
            filter=self.options.filter if filter is None else filter,
        )
        documents = [
            Document(
                id=product.product_id,
                content=options.text_of(product),
                meta=options.metadata_of(product),
                score=product.score,
            )
            for product in self._search.find(query, options)
        ]
        return {"documents": documents}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        top_k: int | None = None,
        filter: str | None = None,  # noqa: A002
    ) -> dict[str, list[Document]]:
        """Return the best products of a query as `documents`, without blocking the event loop.

        Args:
            query: Text to search for.
            top_k: Most documents, in place of the retriever's.
            filter: Condition on the products, in place of the retriever's.

        Raises:
            SearchError: The search cannot be answered.
        """
        found: dict[str, list[Document]] = await asyncio.to_thread(self.run, query, top_k, filter)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the retriever's settings, as a saved pipeline has them.

        Raises:
            ConfigError: The retriever has an open searcher, which cannot be saved.
        """
        if isinstance(self.source, Searcher):
            raise ConfigError(
                "source: an open searcher cannot be saved with a pipeline; serve its index with aisle serve, "
                "and give the URL"
            )
        options = self.options
        saved: dict[str, Any] = default_to_dict(
            self,
            source=self.source,
            top_k=options.top_k,
            filter=options.filter,
            mode=options.mode,
            min_score=options.min_score,
            p=options.p,
            fields=None if options.fields is None else list(options.fields),
            text_template=options.text_template,
            api_key=None if self.api_key is None else self.api_key.to_dict(),
            timeout=self.timeout,
        )
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "HaystackRetriever":
        """Return the retriever of a saved pipeline."""
        deserialize_secrets_inplace(data["init_parameters"], keys=["api_key"])
        restored: HaystackRetriever = default_from_dict(cls, data)
        return restored
