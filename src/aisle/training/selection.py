"""Evaluate the model on validation pairs, and choose the metric that selects the best evaluation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from aisle.errors import AisleError, EvaluationError
from aisle.evaluation.joint_pool import joint_pool
from aisle.evaluation.pair_metrics import score_pairs
from aisle.training.distributed import broadcast_from_main
from aisle.training.group_retrieval import GroupTask, measure_groups
from aisle.training.tokenized import TokenizedPairs
from aisle.training.validation_retrieval import RetrievalTask, measure_retrieval
from aisle.types.choices import Selection

SELECTION_METRICS: dict[Selection, str] = {
    "roc_auc": "roc_auc",
    "spearman": "spearman",
    "retrieval": "mrr",
    "joint_pool": "joint_pool_mrr",
}
"""Metric that each value of `--selection` maximises."""
MOST_RANKED_PAIRS = 10_000
"""Most pairs to rank. The cost is quadratic: retrieval over 10,000 pairs computes 1e8 cosines, and a joint
pool 4e8."""


def make_evaluator(
    accelerator: Any,
    pairs: TokenizedPairs,
    selection: Selection,
    embed: Callable[[np.ndarray], torch.Tensor],
    *,
    also_right: Callable[[], np.ndarray],
    log: Callable[[str], None],
    sample: int | None = None,
    seed: int = 0,
) -> Callable[[], dict[str, Any]]:
    """Return a function that evaluates the current model; call it on all ranks.

    If the pairs have labels, the metrics always include those of the pairs' cosines.

    Args:
        accelerator: The run's `Accelerator`.
        pairs: The validation pairs.
        selection: Way to select the best evaluation.
        embed: Function that returns the embeddings of texts, given their numbers: (texts, dim) float32, on
            every rank.
        also_right: Function that returns queries and relevant products of the training pairs, for retrieval.
        log: Function called with a message for the user.
        sample: Number of queries (or texts of groups) to draw, which rank the products (or other texts); None
            takes all.
        seed: Seed of the draw.

    Raises:
        EvaluationError: The selection needs a positive, and no validation pair is a positive.
    """
    parts: list[tuple[np.ndarray, Callable[[torch.Tensor], dict[str, Any]]]] = []
    if pairs.labelled:
        parts.append((np.concatenate([pairs.queries, pairs.products]), partial(_cosines, pairs)))
    if selection == "retrieval" and pairs.texts_of_groups:
        parts.append(_groups(accelerator, pairs, log, sample, seed))
    elif selection == "retrieval":
        parts.append(_retrieval(accelerator, pairs, also_right(), log, sample, seed))
    elif selection == "joint_pool":
        parts.append(_joint_pool(accelerator, pairs, log))
    numbers = np.concatenate([texts for texts, _ in parts])
    ends = np.cumsum([len(texts) for texts, _ in parts]).tolist()

    def evaluate() -> dict[str, Any]:
        embedded = embed(numbers)
        figures: dict[str, Any] = {}
        for (texts, measure), end in zip(parts, ends, strict=True):
            figures |= measure(embedded[end - len(texts) : end])
        return figures

    return evaluate


def _cosines(pairs: TokenizedPairs, embedded: torch.Tensor) -> dict[str, Any]:
    queries, products = np.split(embedded.cpu().numpy(), 2)
    found = score_pairs(np.einsum("ij,ij->i", queries, products), np.asarray(pairs.relevance))
    return {
        "roc_auc": found.roc_auc,
        "average_precision": found.average_precision,
        "best_f1": found.best_f1,
        "best_f1_threshold": found.best_f1_threshold,
        **({} if found.spearman is None else {"spearman": found.spearman}),
        **({} if found.note is None else {"note": found.note}),
    }


def _retrieval(
    accelerator: Any,
    pairs: TokenizedPairs,
    also: np.ndarray,
    log: Callable[[str], None],
    sample: int | None,
    seed: int,
) -> tuple[np.ndarray, Callable[[torch.Tensor], dict[str, Any]]]:
    """Return the texts to embed, and the function that evaluates their embeddings."""
    _positives(pairs, "retrieval")
    task = RetrievalTask.of(pairs, first=MOST_RANKED_PAIRS, also=also).sampled(sample, seed)
    count = len(task.queries)
    log(
        f"validation: {count:,} queries rank the {task.product_count:,} products{_of(pairs)}; the best "
        f"evaluation has the highest {SELECTION_METRICS['retrieval']}"
    )

    def measure(embedded: torch.Tensor) -> dict[str, Any]:
        return {
            **measure_retrieval(accelerator, task, embedded[:count], embedded[count:]),
            "ranked_queries": count,
            "ranked_products": task.product_count,
        }

    return np.concatenate([task.queries, task.texts]), measure


def _groups(
    accelerator: Any, pairs: TokenizedPairs, log: Callable[[str], None], sample: int | None, seed: int
) -> tuple[np.ndarray, Callable[[torch.Tensor], dict[str, Any]]]:
    """Return the texts to embed, and the function that evaluates their embeddings."""
    task = GroupTask.of(pairs, first=MOST_RANKED_PAIRS, sample=sample, seed=seed)
    count = len(task.ranking)
    if not count:
        raise EvaluationError(
            "--group_column: no validation group has two different texts, so there is nothing to find; give "
            "other validation texts, or a higher --validation_share"
        )
    log(
        f"validation: {count:,} texts rank the {len(task.texts):,} texts{_of(pairs)}, and those of the same "
        f"group are right; the best evaluation has the highest {SELECTION_METRICS['retrieval']}"
    )

    def measure(embedded: torch.Tensor) -> dict[str, Any]:
        figures = measure_groups(accelerator, task, embedded)
        return {**figures, "ranked_queries": count, "ranked_products": len(task.texts)}

    return task.texts, measure


def _joint_pool(
    accelerator: Any, pairs: TokenizedPairs, log: Callable[[str], None]
) -> tuple[np.ndarray, Callable[[torch.Tensor], dict[str, Any]]]:
    """Return the texts to embed, and the function that evaluates their embeddings."""
    rows = _positives(pairs, "joint_pool")[:MOST_RANKED_PAIRS]
    log(
        f"validation: the {2 * len(rows):,} queries and products{_of(pairs)} rank each other in one pool; "
        f"the best evaluation has the highest {SELECTION_METRICS['joint_pool']}"
    )

    def measure(embedded: torch.Tensor) -> dict[str, Any]:
        queries, products = np.split(embedded.cpu().numpy(), 2)
        pool = joint_pool(queries, products)
        return {"joint_pool_mrr": pool.mrr, "joint_pool_precision@1": pool.precision_at_1}

    texts = np.concatenate([pairs.queries[rows], pairs.products[rows]])
    return texts, lambda embedded: _once(accelerator, partial(measure, embedded))


def _positives(pairs: TokenizedPairs, selection: Selection) -> np.ndarray:
    positives = np.flatnonzero(pairs.positive(np.arange(len(pairs))))
    if not len(positives):
        raise EvaluationError(
            f"--selection {selection}: none of the {len(pairs):,} validation pairs is a positive (relevance "
            "above 0.5); give other pairs, or select by roc_auc"
        )
    return positives


def _of(pairs: TokenizedPairs) -> str:
    return "" if len(pairs) <= MOST_RANKED_PAIRS else f" of the first {MOST_RANKED_PAIRS:,} pairs"


def _once(accelerator: Any, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the main rank's result on every rank; an error of the main rank is raised on all."""
    measured: Any = None
    if accelerator.is_main_process:
        try:
            measured = measure()
        except AisleError as error:
            measured = error
    measured = broadcast_from_main(accelerator, measured)
    if isinstance(measured, AisleError):
        raise measured
    found: dict[str, Any] = measured
    return found
