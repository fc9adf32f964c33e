"""Relevance from clicks: rates corrected for positions, smoothed, and scaled to [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.data.click_counts import ClickCounts, Floats
from aisle.data.position_bias import Propensities
from aisle.errors import DataError

__all__ = ["ClickModel", "fit_click_model"]

FULL_RATE_QUANTILE = 0.95
"""Quantile of the smoothed rates that becomes relevance 1 by default; the maximum would be a single pair."""


@dataclass(frozen=True)
class ClickModel:
    """How counts become a relevance: fitted on the training data, applied to all.

    Attributes:
        propensities: Examination of the positions.
        rate: Mean rate of all items, per examined impression; purchases count as clicks.
        strength: Examined impressions that the mean rate counts for in each item (the prior of a Beta
            distribution).
        full_rate: Smoothed rate that becomes relevance 1.
        purchase_weight: Clicks that a purchase counts for, besides its own click.
    """

    propensities: Propensities
    rate: float
    strength: float
    full_rate: float
    purchase_weight: float

    def rates(self, counts: ClickCounts) -> Floats:
        """Return the smoothed rate of each item: (items,) float64.

        A click counts once, and an impression with the propensity of its position. On average this is the
        rate of inverse propensity weighting (Joachims, Swaminathan and Schnabel 2017,
        https://doi.org/10.1145/3018661.3018699), in which a single click far down counts for many; its
        variance is smaller, because impressions far down, which say little, count little.
        """
        examined = counts.per_item(counts.impressions * self.propensities.of(counts.position))
        gained = counts.per_item(counts.clicks + self.purchase_weight * counts.purchases)
        return np.asarray((gained + self.strength * self.rate) / (examined + self.strength))

    def relevance(self, counts: ClickCounts) -> npt.NDArray[np.float32]:
        """Return the relevance of each item: (items,) float32 in [0, 1]."""
        return np.minimum(self.rates(counts) / self.full_rate, 1).astype(np.float32)


def fit_click_model(
    counts: ClickCounts,
    *,
    propensities: Propensities,
    strength: float | None,
    purchase_weight: float,
    full_rate: float | None = None,
) -> ClickModel:
    """Return the model of the counts.

    Args:
        counts: Counts of the training data.
        propensities: Examination of the positions.
        strength: Strength of the prior; None estimates it from how far the items' rates differ.
        purchase_weight: Clicks that a purchase counts for, besides its own click.
        full_rate: Rate that becomes relevance 1; None takes the 95th percentile of the smoothed rates.

    Raises:
        DataError: There are no clicks, or the rates differ no more than by chance.
    """
    if not counts.clicks.sum():
        raise DataError(
            f"--label_from: there are no clicks in {counts.impressions.sum():,.0f} impressions; check that "
            "the columns are named in the order clicks, impressions."
        )
    weight = propensities.of(counts.position)
    examined = counts.per_item(counts.impressions * weight)
    if strength is None:
        strength = _prior_strength(
            counts.per_item(counts.clicks), examined, counts.per_item(counts.impressions * weight**2)
        )
    gained = counts.per_item(counts.clicks + purchase_weight * counts.purchases)
    model = ClickModel(
        propensities, float(gained.sum() / examined.sum()), strength, full_rate or 1.0, purchase_weight
    )
    if full_rate is not None:
        return model
    usual = float(np.quantile(model.rates(counts), FULL_RATE_QUANTILE))
    return ClickModel(propensities, model.rate, strength, usual, purchase_weight)


def _prior_strength(clicks: Floats, examined: Floats, squared: Floats) -> float:
    """Return the strength of the Beta prior by the method of moments.

    The spread of the rates `clicks / examined` is that of the items plus that of chance; see Kleinman 1973,
    https://doi.org/10.1080/01621459.1973.10481332, here with examination.

    Args:
        clicks: (items,) clicks.
        examined: (items,) sum of impressions times propensity.
        squared: (items,) sum of impressions times squared propensity.

    Raises:
        DataError: The rates differ no more than by chance.
    """
    total = examined.sum()
    mean = clicks.sum() / total
    spread = float((examined * (clicks / examined - mean) ** 2).sum())
    share = squared / examined
    chance = float(((mean - mean**2 * share) * (1 - examined / total)).sum())
    between = (spread - chance) / float((examined - share - examined**2 / total).sum())
    if not between > 0:
        raise DataError(
            f"--label_from: the click rates of {len(clicks):,} pairs differ no more than by chance (mean "
            f"rate {mean:.3g}, {total / len(clicks):,.1f} examined impressions a pair), so clicks do not "
            "tell the products apart. Give more data, or set --click_prior_strength, such as 20."
        )
    return max(float(mean * (1 - mean) / between - 1), 0.0)
