"""Pairs of texts whose teacher's scores a run needs, by the numbers of the texts."""

from __future__ import annotations

import numpy as np

from aisle.data.adjacency import Ints
from aisle.data.scored_products import ScoredProducts
from aisle.training.batch_plan import BatchPlan
from aisle.training.contrast import texts_to_compare
from aisle.training.tokenized import TokenizedPairs


def listed_pairs(pairs: TokenizedPairs) -> tuple[Ints, Ints]:
    """Return the queries and the products of all pairs, then of all hard negatives with their queries."""
    of_negatives = np.repeat(pairs.queries, np.diff(pairs.negative_offsets))
    return np.append(pairs.queries, of_negatives), np.append(pairs.products, pairs.negatives)


def batch_pairs(pairs: TokenizedPairs, plan: BatchPlan, *, total_steps: int) -> tuple[Ints, Ints]:
    """Return the distinct pairs of a query and a product, hard negatives included, of all batches of a run.

    Args:
        pairs: The training pairs.
        plan: Pairs of each batch.
        total_steps: Steps of the run.
    """
    texts, found = len(pairs.query_keys), np.empty(0, np.int64)
    for epoch in range(-(-total_steps // plan.steps_per_epoch)):
        codes = [found]
        for step, batches in enumerate(plan.steps(epoch), start=epoch * plan.steps_per_epoch):
            if step >= total_steps:
                break
            for rows in batches:
                queries, products = texts_to_compare(pairs, rows)
                codes.append((queries[:, None] * texts + products).ravel())
        found = np.unique(np.concatenate(codes))
    queries, products = np.divmod(found, texts)
    return queries, products


def scored_products_of(pairs: TokenizedPairs) -> ScoredProducts:
    """Return the products that a teacher scored for each query: those of its pairs, and their hard negatives.

    Args:
        pairs: Pairs with teacher scores; those of hard negatives may be missing.
    """
    queries, products = listed_pairs(pairs)
    scores = np.append(pairs.teacher_scores, pairs.negative_scores)
    return ScoredProducts.of(queries[: len(scores)], products[: len(scores)], scores)
