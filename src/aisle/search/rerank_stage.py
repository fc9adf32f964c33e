"""The rerank stage of every search: a reranker's scores, blended with the search's as its run measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.errors import SearchError
from aisle.index.search_result import Hit
from aisle.search.rerankers import Reranker
from aisle.search.reranking import Rerank
from aisle.types.choices import SearchMode
from aisle.types.rerank_blend import RerankBlend

__all__ = ["RerankStage", "dropped_note", "rerank_by", "rerank_stage"]

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RerankStage:
    """Scores the first products of a search.

    Args:
        reranker: The reranker.
        blend: Weights of both scores; None takes the reranker's score alone.
    """

    reranker: Reranker
    blend: RerankBlend | None = None

    def scores(self, query: str, texts: Sequence[str | None], retrieval: Scores) -> Scores:
        """Return the scores that order products, (products,) float32; higher is better.

        Args:
            query: The query.
            texts: Text of each product.
            retrieval: Score of each product in the search.

        Raises:
            SearchError: A product has no text.
            ModelError: The reranker fails.
        """
        if None in texts:
            raise SearchError(
                f"reranker {self.reranker.name!r}: reads texts, and the index has none; build it again with "
                "them"
            )
        logits = self.reranker.logits([(query, str(text)) for text in texts])
        return logits if self.blend is None else self.blend.of(retrieval, logits)


def rerank_stage(
    reranker: Reranker, mode: SearchMode | None, *, also_dropped: bool = False
) -> RerankStage | None:
    """Return the rerank stage of a search mode; None if its run measured that it does not help there.

    The blend holds for the mode in which it was measured: in others, the reranker's scores count alone.

    Args:
        reranker: The reranker.
        mode: Search mode of the products; None for other products.
        also_dropped: Whether to return the stage even if it does not help, to measure it again.
    """
    blend = reranker.blend
    if blend is None or blend.mode != mode:
        return RerankStage(reranker)
    return RerankStage(reranker, blend) if blend.kept or also_dropped else None


def dropped_note(reranker: Reranker) -> str:
    """Return why a reranker without a stage is not used."""
    assert reranker.blend is not None
    return (
        f"the reranker {reranker.name} is dropped, and the search's own list is served: "
        f"{reranker.blend.summary}; the interval must lie above zero"
    )


def rerank_by(reranker: Reranker, *, mode: SearchMode | None = None) -> Rerank:
    """Return the rerank function of a searcher that scores the texts of the hits with a reranker.

    Args:
        reranker: The reranker.
        mode: Mode of the searcher, for the blend that the reranker's run measured; a reranker that it dropped
            keeps the search's order. None takes the reranker's scores alone.
    """
    stage = rerank_stage(reranker, mode)

    def rerank(query: str, hits: Sequence[Hit]) -> Iterable[float]:
        retrieval = np.array([hit.score for hit in hits], np.float32)
        return retrieval if stage is None else stage.scores(query, [hit.text for hit in hits], retrieval)

    return rerank
