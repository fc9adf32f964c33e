"""Fit the weights of a search's scores and a reranker's scores, and measure the list on other queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["CUTOFF", "ScoredLists", "dcg", "fit_weights", "held_out_ndcg"]

CUTOFF = 10
"""The k of nDCG@k."""
SHARES = tuple(number / 20 for number in range(21))
"""Shares of the reranker to try; 0 is the search's order."""
FOLDS = 5

Values = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredLists:
    """Lists of judged products, with two scores each.

    Args:
        retrieval: (products,) the search's scores; they fall within each list.
        rerank: (products,) the reranker's logits.
        relevance: (products,) judged relevance; 0 if a product is not judged.
        offsets: (queries + 1,) int64, start of each query's products, then their number.
        ideal: (queries,) DCG of the best possible order of the query's judged products, above 0.
    """

    retrieval: Values
    rerank: Values
    relevance: Values
    offsets: NDArray[np.int64]
    ideal: Values

    def __len__(self) -> int:
        return len(self.ideal)

    @property
    def spreads(self) -> tuple[float, float]:
        """Mean standard deviation of either score within a list, 1 if there is none."""
        own = [slice(*ends) for ends in pairwise(self.offsets)]
        found = [
            float(np.mean([scores[one].std() for one in own if one.start < one.stop] or [0.0]))
            for scores in (self.retrieval, self.rerank)
        ]
        return found[0] or 1.0, found[1] or 1.0

    def ndcg(self, a: float, b: float) -> Values:
        """Return nDCG@10 of each list in the order of `a * retrieval + b * rerank`; ties keep their order."""
        scores = self.retrieval * a + self.rerank * b
        found = np.empty(len(self))
        for query, ideal in enumerate(self.ideal):
            own = slice(self.offsets[query], self.offsets[query + 1])
            order = np.argsort(-scores[own], kind="stable")
            found[query] = dcg(self.relevance[own][order]) / ideal
        return found


def dcg(gains: NDArray[np.floating]) -> float:
    """Return the discounted cumulative gain of the first `CUTOFF` products: sum of gain / log2(1 + rank)."""
    first = np.asarray(gains[:CUTOFF], np.float64)
    return float((first / np.log2(np.arange(2, len(first) + 2))).sum())


def fit_weights(lists: ScoredLists) -> tuple[float, float]:
    """Return the weights a and b with the highest mean nDCG@10.

    Both scores are divided by their spread within a list, and a share of the reranker from 0 to 1 is tried;
    of equally good shares, the smallest counts.
    """
    weights = _weights(lists)
    return weights[int(np.argmax([lists.ndcg(*one).mean() for one in weights]))]


def held_out_ndcg(lists: ScoredLists) -> tuple[Values, Values]:
    """Return nDCG@10 of each query before and after, its weights fitted on the other folds' queries."""
    weights = _weights(lists)
    values = np.stack([lists.ndcg(*one) for one in weights])
    folds = np.arange(len(lists)) % FOLDS
    after = values[0].copy()
    for fold in range(FOLDS):
        own, others = folds == fold, folds != fold
        if own.any() and others.any():
            after[own] = values[int(np.argmax(values[:, others].mean(axis=1)))][own]
    return values[0], after


def _weights(lists: ScoredLists) -> Sequence[tuple[float, float]]:
    of_retrieval, of_rerank = lists.spreads
    return [((1 - share) / of_retrieval, share / of_rerank) for share in SHARES]
