"""What searching by words needs of an open index, without the module that brings the modes together."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from aisle.index.exact import FloatArray, Rows, Scores
from aisle.index.hits import SearchResult
from aisle.index.lexical import Bm25Index
from aisle.index.manifest import Manifest

__all__ = ["Searchable"]


class Searchable(Protocol):
    """An open index; `aisle.index.search_index.SearchIndex` has the meaning of each name."""

    @property
    def manifest(self) -> Manifest:
        """Return the version's manifest."""

    @property
    def embeddings(self) -> FloatArray:
        """Return the stored embeddings."""

    @property
    def tie_ranks(self) -> Rows:
        """Return the place of each product's id among the sorted ids."""

    @property
    def lexical(self) -> Bm25Index | None:
        """Return BM25 over the texts, if there are texts."""

    def __len__(self) -> int: ...

    def search(
        self,
        query_embeddings: npt.NDArray[np.float32],
        *,
        top_k: int,
        ef_search: int | None = None,
        exact: bool = False,
        where: str | None = None,
        threads: int | None = None,
    ) -> SearchResult:
        """Return the best products by embeddings."""

    def result(self, rows: Rows, scores: Scores) -> SearchResult:
        """Return rows and scores with their product ids."""

    def satisfying(self, where: str) -> npt.NDArray[np.bool_]:
        """Return the mask of the products that satisfy a condition."""
