"""Retrievers for LangChain, LlamaIndex and Haystack; each needs the extra of its framework.

A retriever is imported when its name is first used, so that the other frameworks need not be installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aisle.integrations.haystack_retriever import HaystackRetriever
    from aisle.integrations.langchain_retriever import LangChainRetriever
    from aisle.integrations.llama_index_retriever import LlamaIndexRetriever
else:
    from aisle.lazy_names import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "aisle.integrations.haystack_retriever": ["HaystackRetriever"],
            "aisle.integrations.langchain_retriever": ["LangChainRetriever"],
            "aisle.integrations.llama_index_retriever": ["LlamaIndexRetriever"],
        },
    )

__all__ = ["HaystackRetriever", "LangChainRetriever", "LlamaIndexRetriever"]
