"""The margin between a positive and its hard negatives: candidates above it are likely to be right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from aisle.errors import ConfigError

__all__ = ["Margin"]


@dataclass(frozen=True)
class Margin:
    """Distance that a hard negative keeps from its positive, in the score of the ranking.

    A candidate with a higher score than `limit` is likely to be a positive that nobody judged. These are the
    rules TopK-PercPos (relative) and TopK-MarginPos (absolute) of NV-Retriever, which found the first the
    better with 95% (Moreira et al. 2024, https://arxiv.org/abs/2407.15831).

    Args:
        kind: Whether the size is a share of the positive's score, or a difference of scores.
        size: Distance, at least 0.
    """

    kind: Literal["relative", "absolute"]
    size: float

    @classmethod
    def of(cls, text: str) -> Margin | None:
        """Return the margin that a setting names; None for "none".

        Raises:
            ConfigError: The setting has another form, or the size is out of range.
        """
        if text == "none":
            return None
        kind, _, number = text.partition(":")
        try:
            size = float(number)
        except ValueError:
            size = math.nan
        if kind == "relative" and 0 <= size < 1:
            return cls("relative", size)
        if kind == "absolute" and 0 <= size < math.inf:
            return cls("absolute", size)
        raise ConfigError(
            f"--margin {text}: must be relative:SHARE with a share from 0 to below 1, absolute:DIFFERENCE "
            "with a difference of at least 0, or none; such as relative:0.05"
        )

    def limit(self, positive: float) -> float:
        """Return the highest score of a hard negative.

        Args:
            positive: Score of the positive. A relative margin is a share of its size, so that the limit lies
                below a negative score too.
        """
        return positive - (self.size * abs(positive) if self.kind == "relative" else self.size)

    def __str__(self) -> str:
        return f"{self.kind}:{self.size:g}"
