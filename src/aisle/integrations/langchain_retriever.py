"""A retriever for LangChain."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import PrivateAttr, SecretStr

from aisle.extras import require_extra
from aisle.integrations.found_products import RetrieverOptions
from aisle.integrations.product_search import TIMEOUT_SECONDS, ProductSearch, product_search
from aisle.search.searcher import Searcher
from aisle.types.choices import MinScore, SearchMode

require_extra("langchain")

from langchain_core.documents import Document  # noqa: E402
from langchain_core.retrievers import BaseRetriever  # noqa: E402

__all__ = ["LangChainRetriever"]


class LangChainRetriever(BaseRetriever):
    """Products as documents of LangChain, from an open searcher or a service.

    `invoke`, `ainvoke` and `batch` take a query, and `top_k` and `filter` in place of the retriever's.
    """

    source: Searcher | str
    """An open searcher (`aisle.open_searcher`), or the URL of a service (`aisle serve`)."""
    top_k: int = 10
    """Most documents per query, at least 1."""
    filter: str | None = None
    """Condition on the products, such as `price <= 50 and in_stock`."""
    mode: SearchMode | None = None
    """"dense", "lexical" or "hybrid"; None is the mode of the searcher or service."""
    min_score: MinScore | None = None
    """Lowest score of a document; "calibrated" needs the probability `p`."""
    p: float | None = None
    """Lowest probability of relevance for "calibrated"."""
    fields: list[str] | None = None
    """Columns in the metadata; None is all."""
    text_template: str | None = None
    """Text of a document, for example `"{title} by {brand}"`; None is a line for each column."""
    api_key: SecretStr | None = None
    """Key of the service."""
    timeout: float = TIMEOUT_SECONDS
    """Seconds to wait for the service."""

    _search: ProductSearch = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Check the settings.

        Raises:
            AisleError: A setting is not valid.
        """
        super().model_post_init(context)
        key = None if self.api_key is None else self.api_key.get_secret_value()
        self._search = product_search(self.source, api_key=key, timeout=self.timeout)
        self._options_with(None, None)

    def _options_with(self, top_k: int | None, filter: str | None) -> RetrieverOptions:  # noqa: A002
        return RetrieverOptions(
            top_k=self.top_k if top_k is None else top_k,
            filter=self.filter if filter is None else filter,
            mode=self.mode,
            min_score=self.min_score,
            p=self.p,
            fields=self.fields,
            text_template=self.text_template,
        )

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: Any,
        top_k: int | None = None,
        filter: str | None = None,  # noqa: A002
    ) -> list[Document]:
        options = self._options_with(top_k, filter)
        return [
            Document(
                id=product.product_id,
                page_content=options.text_of(product),
                metadata=options.metadata_of(product),
            )
            for product in self._search.find(query, options)
        ]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: Any,
        top_k: int | None = None,
        filter: str | None = None,  # noqa: A002
    ) -> list[Document]:
        return await asyncio.to_thread(
            self._get_relevant_documents, query, run_manager=run_manager, top_k=top_k, filter=filter
        )
