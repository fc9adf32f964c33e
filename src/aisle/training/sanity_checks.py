"""Sanity checks at the end of a run: refuse a model that learned nothing, warn about a collapsed model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aisle.errors import TrainingError

LEAST_CHANGE = 1e-6
"""Embeddings that differ by at most this are equal: float32 of unit norm, summed in different orders."""
LEAST_LOSS_CHANGE = 1e-7
"""Losses whose relative difference is at most this are equal; it is about the spacing of float32."""
LEAST_SPREAD = 1e-3
"""Scores (logits) that differ by at most this rank products by chance."""
LEAST_STEPS = 3
"""With fewer steps, equal losses may be chance."""
COLLAPSED = 0.99
"""With a higher mean cosine between different texts, search cannot distinguish their embeddings."""


def check_learned(
    *,
    base: np.ndarray,
    tuned: np.ndarray,
    loss_range: tuple[float, float],
    steps: int,
    learning_rate: float,
    trained: str,
    outputs: str = "embeddings of {} texts",
) -> None:
    """Refuse a run that did not change the embeddings, or in which every step had the same loss.

    Args:
        base: (texts, dim) float32, embeddings of a sample of texts before training; at least one text. For a
            cross-encoder, scores of pairs, (pairs, 1).
        tuned: (texts, dim) float32, embeddings of the same texts after training.
        loss_range: Lowest and highest loss of a step.
        steps: Number of steps of the run.
        learning_rate: Peak learning rate.
        trained: Description of the trained weights, for the message: "LoRA on query, key, value".
        outputs: Description of the model's outputs for a number of texts, for the message.

    Raises:
        TrainingError: An embedding is not finite, all embeddings equal the base model's to within 1e-6, or
            the losses of three or more steps equal each other to within 1e-7 of their size.
    """
    broken = int((~np.isfinite(tuned).all(axis=1)).sum())
    if broken:
        raise TrainingError(
            f"the trained model's {outputs.format(f'{broken} of {len(tuned)}')} are not finite; "
            f"lower --learning_rate (it was {learning_rate:g})"
        )
    change = float(np.abs(tuned - base).max())
    if change <= LEAST_CHANGE:
        raise TrainingError(
            f"nothing was learned: the {outputs.format(len(base))} differ from the base model's "
            f"by at most {change:.1e}, which is a rounding error. {_what_to_look_at(learning_rate, trained)}"
        )
    lowest, highest = loss_range
    if steps >= LEAST_STEPS and highest - lowest <= LEAST_LOSS_CHANGE * max(abs(lowest), abs(highest)):
        raise TrainingError(
            f"nothing was learned: the loss of all {steps} steps is {highest:g}. "
            f"{_what_to_look_at(learning_rate, trained)}; a loss with in-batch negatives needs "
            "two different products in a batch (--per_device_train_batch_size)"
        )


def collapse_warning(base: np.ndarray, tuned: np.ndarray, *, learning_rate: float) -> str | None:
    """Return a warning if different texts have nearly the same embedding after training, else None.

    Args:
        base: (texts, dim) float32, embeddings of a sample of texts before training.
        tuned: (texts, dim) float32, embeddings of the same texts after training.
        learning_rate: Peak learning rate.
    """
    _, unlike = np.unique(base, axis=0, return_index=True)
    texts = len(unlike)
    if texts < 2:
        return None
    tuned = tuned / np.maximum(np.linalg.norm(tuned, axis=1, keepdims=True), 1e-12)
    # The squared norm of the sum is the sum of all cosines, including each text's with itself.
    mean = (float((tuned[unlike].sum(axis=0) ** 2).sum()) - texts) / (texts * (texts - 1))
    if mean < COLLAPSED:
        return None
    return (
        "the model collapsed: after training, different texts have nearly the same embedding (mean cosine "
        f"{mean:.4f}). Lower --learning_rate (it was {learning_rate:g}), give --num_warmup_steps, and look "
        "for labels that contradict each other"
    )


def equal_scores_warning(tuned: np.ndarray, *, learning_rate: float) -> str | None:
    """Return a warning if a trained cross-encoder gives different pairs nearly the same score, else None.

    Args:
        tuned: (pairs, 1) float32, scores of a sample of pairs after training.
        learning_rate: Peak learning rate.
    """
    spread = float(np.ptp(tuned))
    if len(tuned) < 2 or spread > LEAST_SPREAD:
        return None
    return (
        f"the model collapsed: after training, the scores of {len(tuned)} pairs differ by at most "
        f"{spread:.1e}. Lower --learning_rate (it was {learning_rate:g}), give --num_warmup_steps, and look "
        "for labels that contradict each other"
    )


def no_gain_warning(base: Mapping[str, Any], kept: Mapping[str, Any], *, metric: str) -> str | None:
    """Return a warning if the tuned model is no better than its base model, else None.

    Args:
        base: Metrics of the base model on the validation pairs.
        kept: Metrics of the saved weights, on the same pairs.
        metric: Name of the selection metric; higher is better.
    """
    before, after = base.get(metric), kept.get(metric)
    if before is None or after is None:
        return None
    if after > before or after == 1:
        return None
    return (
        f"the tuned model is no better than its base model on the validation pairs: {metric} is {after:.4f}, "
        f"and was {before:.4f} before training; more pairs, another --loss or a lower --learning_rate may "
        "help"
    )


def _what_to_look_at(learning_rate: float, trained: str) -> str:
    return (
        f"Check --learning_rate (it was {learning_rate:g}), --lora_target_modules (trained: {trained}) and "
        "the labels: they must not all be equal, and --label_map must give their relevance"
    )
