"""Pairs that a loss can learn from: in some batches a pair has nothing to be compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np

from aisle.data.negatives import Csr, KnownPositives
from aisle.data.scored_products import ScoredProducts
from aisle.losses.parameters import Parameters
from aisle.losses.specification import BatchContents, Loss
from aisle.training.batch_plan import BatchPlan
from aisle.training.contrast import contrasted_texts, hard_negatives_of, texts_to_compare
from aisle.training.tokenized import TokenizedPairs

BATCHES = 100
"""Number of batches to count, from the start of the first epoch."""


@dataclass(frozen=True)
class EmptyBatch:
    """Batch in which a contrastive loss has nothing to contrast any positive with.

    Attributes:
        number: Number of the batch in the first epoch, from 1.
        pairs: Number of its pairs.
        reason: Why its positives have no negatives.
        full: Whether the batch is full; the last of an epoch can be shorter.
    """

    number: int
    pairs: int
    reason: str
    full: bool


@dataclass(frozen=True)
class Informative:
    """What the first batches of a run have to compare.

    Attributes:
        share: Share of pairs with a gradient, in [0, 1]; of the positives, for a contrastive loss.
        empty: First batch without a negative, for a contrastive loss; a full batch before a shorter batch.
    """

    share: float
    empty: EmptyBatch | None = None


def informative_pairs(
    loss: Loss,
    parameters: Parameters,
    pairs: TokenizedPairs,
    plan: BatchPlan,
    *,
    known: KnownPositives | None,
    scored: ScoredProducts | None = None,
) -> Informative:
    """Return what the first batches of a run have to compare.

    Args:
        loss: Loss of the run.
        parameters: Parameters of the loss.
        pairs: The training pairs.
        plan: Pairs of each batch.
        known: Positives among all pairs, for a contrastive loss.
        scored: Teacher's scores, for a loss that takes scored lists.
    """
    comparison = loss.checked_comparison
    if comparison is None:
        return Informative(1.0)
    counted = learning = 0
    empty: list[EmptyBatch] = []
    for number, rows in enumerate(islice(chain.from_iterable(plan.steps(0)), BATCHES), start=1):
        found = comparison.find(_contents(loss, pairs, rows, known, scored), parameters)
        counted += len(found)
        learning += int(found.sum())
        if loss.contrasts and len(found) and not found.any():
            full = len(rows) == plan.batch_size * plan.num_processes
            empty.append(EmptyBatch(number, len(rows), _why_empty(loss, pairs, rows), full))
    first = min(empty, key=lambda batch: (not batch.full, batch.number), default=None)
    return Informative(learning / counted if counted else 0.0, first)


def _why_empty(loss: Loss, pairs: TokenizedPairs, rows: np.ndarray) -> str:
    """Return why no positive of a batch has a negative."""
    if loss.needs_hard_negatives:
        return "no positive has a hard negative"
    if loss.takes_lists:
        return "no query has two products with a teacher's score"
    if pairs.texts_of_groups and len(np.unique(pairs.groups[rows])) == 1:
        return "all texts are of the same group"
    if len(rows) == 1:
        return "a single pair has no other product"
    if len(np.unique(pairs.query_keys[pairs.queries[rows]])) == 1:
        return "all pairs have the same query, so that every product is right for it"
    if len(np.unique(pairs.product_keys[pairs.products[rows]])) == 1:
        return "all pairs have the same product"
    return "every product is a known positive of every query, or excluded"


def _contents(
    loss: Loss,
    pairs: TokenizedPairs,
    rows: np.ndarray,
    known: KnownPositives | None,
    scored: ScoredProducts | None,
) -> BatchContents:
    none = np.empty(0, np.int64)
    contents = BatchContents(
        relevance=pairs.relevance[rows] if pairs.labelled else None,
        query_keys=pairs.query_keys[pairs.queries[rows]],
        product_negatives=none,
        query_negatives=none,
        triples=none,
        scored=none,
    )
    if not loss.contrasts:
        return contents
    if scored is not None:
        queries, products = texts_to_compare(pairs, rows)
        return replace(contents, scored=scored.counts_among(queries, products))
    assert known is not None  # always given for a loss that contrasts positives
    texts = contrasted_texts(pairs, known, rows)
    contents = replace(
        contents,
        product_negatives=_left(texts.excluded.products, len(texts.products)),
        query_negatives=_left(texts.excluded.queries, len(texts.queries)),
    )
    if not loss.needs_hard_negatives:
        return contents
    anchors, _ = hard_negatives_of(pairs, texts)
    return replace(contents, triples=np.bincount(anchors, minlength=len(texts.pairs)))


def _left(excluded: Csr, columns: int) -> np.ndarray:
    """Return the number of columns left in each row after exclusions, (rows,) int64."""
    return columns - np.diff(excluded.indptr)
