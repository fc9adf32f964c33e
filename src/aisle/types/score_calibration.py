"""The probability that a product is relevant, by its search score: measured on judged queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from aisle.types.choices import SearchMode

__all__ = ["Calibration", "OperatingPoint", "ReliabilityBin", "ScoreCalibration", "Unjudged"]

Unjudged = Literal["leave_out", "not_relevant"]
"""What an unjudged product of a judged query counts as."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Judged pairs with similar probabilities, each predicted without the judgements of its own query."""

    predicted: float
    """Mean predicted probability."""
    relevant: float
    """Share of the pairs that are relevant."""
    pairs: int


@dataclass(frozen=True)
class OperatingPoint:
    """Effect of a probability threshold on the judged queries."""

    p: float
    """Lowest probability of a product to show."""
    score: float | None
    """Lowest score with this probability; None if no score reaches it."""
    answered: float
    """Share of the judged queries that keep at least one product."""
    relevant_kept: float
    """Share of the relevant pairs with at least this probability."""


@dataclass(frozen=True)
class ScoreCalibration:
    """Probability of relevance as a function of the score of a search mode.

    The function is linear between the points, and constant outside them.
    """

    scores: tuple[float, ...]
    """Scores of the points, rising."""
    probabilities: tuple[float, ...]
    """Probability at each point, never falling; in [0, 1]."""
    pairs: int
    """Number of judged pairs of a query and a product that it was fitted to."""
    relevant: int
    """Number of relevant pairs among them."""
    calibration_error: float
    """Mean distance of predicted probability and share of relevant pairs over the bins, weighted by pairs."""
    brier: float
    """Mean squared error of the predicted probabilities."""
    reliability: tuple[ReliabilityBin, ...]
    """Reliability curve, from low to high probability."""
    points: tuple[OperatingPoint, ...] = ()
    """Effects of some thresholds, lowest first."""

    def probabilities_of(self, scores: Sequence[float] | npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the probability of relevance of each score."""
        return np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities)

    def highest_p(self, *, answered: float) -> float | None:
        """Return the highest `p` of the points that leaves this share of the queries a product, or None."""
        return max((point.p for point in self.points if point.answered >= answered), default=None)

    def score_at(self, p: float) -> float:
        """Return the lowest score with a probability of at least `p`; infinity if no score reaches it.

        -infinity means that every score reaches it.
        """
        reached = np.flatnonzero(np.asarray(self.probabilities) >= p)
        if not len(reached):
            return math.inf
        at = int(reached[0])
        if at == 0:
            return -math.inf
        low, high = self.probabilities[at - 1], self.probabilities[at]
        share = (p - low) / (high - low)
        return self.scores[at - 1] + share * (self.scores[at] - self.scores[at - 1])


@dataclass(frozen=True)
class Calibration:
    """Calibrated scores of the search modes of an index."""

    version: int
    """Version of the index that was measured; later versions of the same encoder keep the calibration."""
    created: str
    """Time of the measurement: ISO 8601, UTC."""
    products: int
    """Number of products in that version."""
    queries: int
    """Number of judged queries."""
    relevant_from: float | None
    """Lowest relevance that counts as relevant; None means anything above 0."""
    unjudged: Unjudged
    """What unjudged products counted as."""
    depth: int
    """Number of best products per query that counted if `unjudged` is "not_relevant"."""
    hybrid_weight: float | None
    """Weight of the embeddings in the calibrated hybrid scores; None if hybrid search is not calibrated."""
    modes: dict[SearchMode, ScoreCalibration]
    """Calibration of each search mode. Scores are the cosine ("dense"), the BM25 score as a share of the
    highest possible score of the query ("lexical"), and the weighted sum of both ("hybrid")."""
