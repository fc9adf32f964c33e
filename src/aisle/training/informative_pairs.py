"""Share of pairs that a loss can learn from: in some batches a pair has nothing to be compared with."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, islice

import numpy as np

from aisle.data.negatives import Csr, KnownPositives
from aisle.losses.parameters import Parameters
from aisle.losses.specification import BatchContents, Loss
from aisle.training.batches import BatchPlan
from aisle.training.contrast import contrasted_texts, hard_negatives_of
from aisle.training.tokenized import TokenizedPairs

BATCHES = 100
"""Number of batches to count, from the start of the first epoch."""


def informative_share(
    loss: Loss,
    parameters: Parameters,
    pairs: TokenizedPairs,
    plan: BatchPlan,
    *,
    known: KnownPositives | None,
) -> float:
    """Return the share of pairs with a gradient in the first batches of a run, in [0, 1].

    For a contrastive loss, only positives are counted.

    Args:
        loss: Loss of the run.
        parameters: Parameters of the loss.
        pairs: The training pairs.
        plan: Pairs of each batch.
        known: Positives among all pairs, for a contrastive loss.
    """
    comparison = loss.checked_comparison
    if comparison is None:
        return 1.0
    counted = learning = 0
    for rows in islice(chain.from_iterable(plan.steps(0)), BATCHES):
        found = comparison.find(_contents(loss, pairs, rows, known), parameters)
        counted += len(found)
        learning += int(found.sum())
    return learning / counted if counted else 0.0


def _contents(
    loss: Loss, pairs: TokenizedPairs, rows: np.ndarray, known: KnownPositives | None
) -> BatchContents:
    none = np.empty(0, np.int64)
    contents = BatchContents(
        relevance=pairs.relevance[rows] if pairs.labelled else None,
        query_keys=pairs.query_keys[pairs.queries[rows]],
        product_negatives=none,
        query_negatives=none,
        triples=none,
    )
    if not loss.contrasts:
        return contents
    assert known is not None  # always given for a contrastive loss
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
