"""Evaluate a cross-encoder: metrics of the validation pairs' scores, and of the lists that it reranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from aisle.evaluation.blend_fit import CUTOFF, dcg
from aisle.evaluation.pair_metrics import score_pairs
from aisle.text.tokens import TokenizedTexts
from aisle.training.tokenized import TokenizedPairs

SERVED_NDCG = f"served_ndcg@{CUTOFF}"
"""nDCG of the list that will be served, after reranking."""
UNRANKED_NDCG = f"unranked_ndcg@{CUTOFF}"
"""nDCG of the same list as the search returns it."""
Score = Callable[[TokenizedTexts, np.ndarray], torch.Tensor]
"""Return the scores of joined pairs, (pairs, 1), given tokenised pairs and their numbers; on every rank."""


@dataclass(frozen=True)
class ServedLists:
    """The products that a search finds for the validation queries, to rerank.

    Args:
        pairs: Tokenised joined pairs: each query with each of its products.
        offsets: (queries + 1,) int64, start of each query's products, best first, then their number.
        relevance: (products,) float32, judged relevance of each product; 0 if it is not judged.
        ideal: (queries,) float64, DCG of the best possible order of the query's judged products.
        depth: Products per query at most.
    """

    pairs: TokenizedTexts
    offsets: np.ndarray
    relevance: np.ndarray
    ideal: np.ndarray
    depth: int

    def __len__(self) -> int:
        return len(self.ideal)

    def ndcg(self, scores: np.ndarray | None = None) -> float:
        """Return the mean nDCG of the lists, in [0, 1], sorted by scores; None keeps the search's order.

        Equal scores keep the order of the search.
        """
        total = 0.0
        for query, ideal in enumerate(self.ideal):
            own = slice(self.offsets[query], self.offsets[query + 1])
            gains = self.relevance[own]
            if scores is not None:
                gains = gains[np.argsort(-scores[own], kind="stable")]
            total += dcg(gains) / ideal
        return total / max(len(self), 1)


def no_use_warning(kept: Mapping[str, Any]) -> str | None:
    """Return a warning if the reranked list is no better than the search's own, else None.

    Args:
        kept: Metrics of the saved weights.
    """
    before, after = kept.get(UNRANKED_NDCG), kept.get(SERVED_NDCG)
    if before is None or after is None or after > before:
        return None
    return (
        f"the reranked list is no better than the search's own on the validation queries: {SERVED_NDCG} is "
        f"{after:.4f}, and {before:.4f} without reranking; do not serve this reranker. Train on products "
        "that the search finds, judged right and wrong"
    )


def make_score_evaluator(
    pairs: TokenizedPairs, score: Score, served: ServedLists | None
) -> Callable[[], dict[str, Any]]:
    """Return a function that evaluates the current model; call it on all ranks.

    Args:
        pairs: The validation pairs.
        score: Scores joined pairs with the current model.
        served: Lists to rerank; None without an index.
    """

    def evaluate() -> dict[str, Any]:
        figures: dict[str, Any] = {}
        if pairs.labelled:
            scores = score(pairs.texts, pairs.queries)[:, 0].cpu().numpy()
            found = score_pairs(scores, np.asarray(pairs.relevance))
            figures = {
                "roc_auc": found.roc_auc,
                "average_precision": found.average_precision,
                "best_f1": found.best_f1,
                "best_f1_threshold": found.best_f1_threshold,
                **({} if found.spearman is None else {"spearman": found.spearman}),
                **({} if found.note is None else {"note": found.note}),
            }
        if served is not None:
            reranked = score(served.pairs, np.arange(len(served.pairs)))[:, 0].cpu().numpy()
            figures |= {
                SERVED_NDCG: served.ndcg(reranked),
                UNRANKED_NDCG: served.ndcg(),
                "ranked_queries": len(served),
            }
        return figures

    return evaluate
