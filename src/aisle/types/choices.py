"""Choices that flags offer and several packages use: pooling, search modes, fusion, number formats."""

from __future__ import annotations

from typing import Literal

__all__ = ["Fusion", "PoolingMode", "SearchMode", "StoreDtype"]

PoolingMode = Literal["mean", "cls", "last"]
"""How a text's token vectors become one embedding."""
SearchMode = Literal["dense", "lexical", "hybrid"]
"""Search by embeddings, by words with BM25, or by both."""
Fusion = Literal["convex", "rrf"]
"""How hybrid search combines both: by weighted scores, or by reciprocal ranks."""
StoreDtype = Literal["float32", "float16"]
"""Number format of stored embeddings."""
