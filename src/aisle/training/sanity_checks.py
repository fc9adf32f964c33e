"""Sanity checks at the end of a run: refuse a model that learned nothing, warn of a collapsed one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aisle.errors import TrainingError

LEAST_CHANGE = 1e-6
"""Largest difference of equal embeddings: float32 of unit norm, summed in different orders."""
LEAST_LOSS_CHANGE = 1e-7
"""Largest relative difference of equal losses, about the spacing of float32."""
LEAST_STEPS = 3
"""Steps below which equal losses may be chance."""
COLLAPSED = 0.99
"""Mean cosine of different texts above which a search cannot distinguish their embeddings."""


def check_learned(
    *,
    base: np.ndarray,
    tuned: np.ndarray,
    loss_range: tuple[float, float],
    steps: int,
    learning_rate: float,
    trained: str,
) -> None:
    """Refuse a run that did not change the embeddings, or whose loss never moved.

    Args:
        base: (texts, dim) float32, embeddings of some texts by the base model; at least one text.
        tuned: (texts, dim) float32, embeddings of the same texts after training.
        loss_range: Lowest and highest loss of a step.
        steps: Steps of the run.
        learning_rate: Peak learning rate.
        trained: The trained weights, for the message: "LoRA on query, key, value".

    Raises:
        TrainingError: An embedding is not finite, no embedding differs from the base model's by more than
            1e-6, or the losses of three or more steps are equal to 1e-7 of their size.
    """
    broken = int((~np.isfinite(tuned).all(axis=1)).sum())
    if broken:
        raise TrainingError(
            f"the trained model's embeddings of {broken} of {len(tuned)} texts are not finite; "
            f"lower --learning_rate (it was {learning_rate:g})"
        )
    change = float(np.abs(tuned - base).max())
    if change <= LEAST_CHANGE:
        raise TrainingError(
            f"nothing was learned: the embeddings of {len(base)} texts differ from the base model's "
            f"by at most {change:.1e}, which is rounding. {_what_to_look_at(learning_rate, trained)}"
        )
    lowest, highest = loss_range
    if steps >= LEAST_STEPS and highest - lowest <= LEAST_LOSS_CHANGE * max(abs(lowest), abs(highest)):
        raise TrainingError(
            f"nothing was learned: the loss of all {steps} steps is {highest:g}. "
            f"{_what_to_look_at(learning_rate, trained)}; a loss that contrasts the batch needs "
            "two different products in it (--per_device_train_batch_size)"
        )


def collapse_warning(base: np.ndarray, tuned: np.ndarray, *, learning_rate: float) -> str | None:
    """Return a warning if the trained model gives different texts nearly the same embedding, else None.

    Args:
        base: (texts, dim) float32, unit L2 norm, embeddings of some texts by the base model.
        tuned: (texts, dim) float32, unit L2 norm, embeddings of the same texts after training.
        learning_rate: Peak learning rate.
    """
    _, unlike = np.unique(base, axis=0, return_index=True)
    texts = len(unlike)
    if texts < 2:
        return None
    # The squared norm of the sum is the sum of all cosines, including each text's with itself.
    mean = (float((tuned[unlike].sum(axis=0) ** 2).sum()) - texts) / (texts * (texts - 1))
    if mean < COLLAPSED:
        return None
    return (
        f"at the end of training unlike texts have nearly one embedding (mean cosine {mean:.4f}): the model "
        f"collapsed. Lower --learning_rate (it was {learning_rate:g}), give --num_warmup_steps, and look for "
        "labels that contradict each other"
    )


def no_gain_warning(base: Mapping[str, Any], kept: Mapping[str, Any], *, metric: str) -> str | None:
    """Return a warning if the tuned model ranks no better than its base, else None.

    Args:
        base: Metrics of the base model on the validation pairs.
        kept: Metrics of the weights that are saved, on the same pairs.
        metric: The selection metric; higher is better.
    """
    before, after = base.get(metric), kept.get(metric)
    if before is None or after is None:
        return None
    if after > before or after == 1:
        return None
    return (
        f"on the validation pairs the tuned model is no better than its base: {metric} {after:.4f}, and "
        f"{before:.4f} before training; more pairs, another --loss or a lower --learning_rate may help"
    )


def _what_to_look_at(learning_rate: float, trained: str) -> str:
    return (
        f"Look at --learning_rate (it was {learning_rate:g}), at --lora_target_modules (trained: {trained}), "
        "and at the labels: are they all equal, and does --label_map give their relevance"
    )
