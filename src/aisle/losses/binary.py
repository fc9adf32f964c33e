"""The loss `binary` of cross-encoders: binary cross-entropy, with a weight for rare positives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from aisle.losses.parameters import Parameters
from aisle.losses.specification import Loss

if TYPE_CHECKING:
    import numpy as np
    import torch

FEW_POSITIVES = 0.02
"""With a lower share of positives, most batches of 64 pairs have at most one, so that a hint is printed."""


@dataclass(frozen=True)
class PositiveWeight(Parameters):
    """Weight of the positives in the loss `binary`."""

    positive_weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = 1.0
    """Weight of relevant pairs in --loss binary. auto: irrelevant over relevant training pairs, so that both
    weigh the same; probabilities are then too high where positives are rare."""

    def resolved(self, relevance: np.ndarray) -> float:
        """Return the weight as a number, given the relevance of all training pairs, in [0, 1]."""
        if self.positive_weight != "auto":
            return self.positive_weight
        relevant = float(relevance.sum(dtype="float64"))
        return (len(relevance) - relevant) / relevant

    def warnings(self) -> Iterator[str]:
        """Yield a message if the weight is likely to be a mistake."""
        if self.positive_weight != "auto" and self.positive_weight < 1:
            yield (
                f"--positive_weight {self.positive_weight:g}: is below 1, so that positives weigh less than "
                "other pairs"
            )


def binary(
    scores: torch.Tensor, relevance: torch.Tensor, *, positive_weight: float | torch.Tensor
) -> torch.Tensor:
    """Return -w y log sigmoid(s) - (1 - y) log(1 - sigmoid(s)) for each pair.

    Args:
        scores: (pairs,) scores s.
        relevance: (pairs,) y in [0, 1].
        positive_weight: Weight w of the relevant part.

    Returns:
        (pairs,) losses.
    """
    from torch.nn.functional import softplus

    relevance = relevance.to(scores.dtype)
    return positive_weight * relevance * softplus(-scores) + (1 - relevance) * softplus(scores)


def _refuse(relevance: np.ndarray) -> str | None:
    """Return the reason why all pairs would get the same score, or None."""
    if relevance.min() == relevance.max():
        return f"needs pairs of different relevance, and every training pair has {relevance.max():g}"
    return None


def _hint(relevance: np.ndarray) -> str | None:
    """Return advice if positives are very rare, or None."""
    share = float(relevance.mean())
    if share >= FEW_POSITIVES:
        return None
    return (
        f"hint: the mean relevance of the training pairs is {share:.1%}; --positive_weight auto weighs "
        "relevant and irrelevant pairs the same"
    )


LOSS = Loss(
    name="binary",
    function=binary,
    help="trains the probability that the product is relevant",
    source="binary cross-entropy, https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss",
    other_names=("BCE",),
    inputs=("relevance",),
    parameters=PositiveWeight,
    default_for="labelled",
    refuse=_refuse,
    hint=_hint,
    reads="scores",
)
