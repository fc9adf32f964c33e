"""A retriever for LlamaIndex."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aisle.extras import require_extra
from aisle.integrations.found_products import RetrieverOptions
from aisle.integrations.product_search import TIMEOUT_SECONDS, product_search
from aisle.search.searcher import Searcher
from aisle.types.choices import MinScore, SearchMode

require_extra("llama-index")

from llama_index.core.retrievers import BaseRetriever  # noqa: E402
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode  # noqa: E402

__all__ = ["LlamaIndexRetriever"]


class LlamaIndexRetriever(BaseRetriever):
    """Products as nodes of LlamaIndex, from an open searcher or a service."""

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
        api_key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        **of_the_base: Any,
    ) -> None:
        """Retrieve from a searcher or service.

        Args:
            source: An open searcher (`aisle.open_searcher`), or the URL of a service (`aisle serve`).
            top_k: Most nodes per query, at least 1.
            filter: Condition on the products, such as `price <= 50 and in_stock`.
            mode: "dense", "lexical" or "hybrid"; None is the mode of the searcher or service.
            min_score: Lowest score of a node; "calibrated" needs the probability `p`.
            p: Lowest probability of relevance for "calibrated".
            fields: Columns in the metadata; None is all.
            text_template: Text of a node, for example `"{title} by {brand}"`; None is a line for each column.
            api_key: Key of the service.
            timeout: Seconds to wait for the service.
            of_the_base: Arguments of LlamaIndex's `BaseRetriever`, such as `callback_manager`.

        Raises:
            AisleError: A setting is not valid.
        """
        self._options = RetrieverOptions(top_k, filter, mode, min_score, p, fields, text_template)
        self._search = product_search(source, api_key=api_key, timeout=timeout)
        super().__init__(**of_the_base)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self._search.find(query_bundle.query_str, self._options)
        nodes = []
        for product in found:
            metadata = self._options.metadata_of(product)
            node = TextNode(
                id_=product.product_id,
                text=self._options.text_of(product),
                metadata=metadata,
                # The text has what a reader needs; LlamaIndex would put the metadata before it.
                excluded_llm_metadata_keys=list(metadata),
                excluded_embed_metadata_keys=list(metadata),
            )
            nodes.append(NodeWithScore(node=node, score=product.score))
        return nodes

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
