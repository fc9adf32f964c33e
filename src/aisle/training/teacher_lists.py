"""The teacher's scores of a run's pairs, by the numbers of their texts."""

from __future__ import annotations

import numpy as np

from aisle.data.scored_products import ScoredProducts
from aisle.training.tokenized import TokenizedPairs


def scored_products_of(pairs: TokenizedPairs) -> ScoredProducts:
    """Return the products that a teacher scored for each query: those of its pairs, and their hard negatives.

    Args:
        pairs: Pairs with teacher scores; those of hard negatives may be missing.
    """
    queries, products, scores = [pairs.queries], [pairs.products], [pairs.teacher_scores]
    if len(pairs.negative_scores):
        queries.append(np.repeat(pairs.queries, np.diff(pairs.negative_offsets)))
        products.append(pairs.negatives)
        scores.append(pairs.negative_scores)
    return ScoredProducts.of(*map(np.concatenate, (queries, products, scores)))
