"""Relevance from clicks: rates corrected for positions, smoothed, and scaled to [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from aisle.data.click_counts import ClickCounts, Floats
from aisle.data.position_bias import Propensities
from aisle.errors import DataError

__all__ = ["ClickModel", "fit_click_model"]

FULL_RATE_QUANTILE = 0.95
"""Quantile of the clicked pairs' rates that becomes relevance 1 by default; the maximum would be one pair."""
UNCLICKED_RELEVANCE = 0.5
"""Highest relevance without a click or purchase. It is no positive, which must be above 0.5."""
ROUNDING = 1e-9
"""Rates that differ by a smaller share are equal."""


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
        """Return the relevance of each item: (items,) float32 in [0, 1].

        The rate of an item that was rarely shown is near the mean rate, with or without clicks; without
        them, its relevance is at most `UNCLICKED_RELEVANCE`.
        """
        most = np.where(_chosen(counts), 1.0, UNCLICKED_RELEVANCE)
        rates = np.minimum(self.rates(counts), self.full_rate)  # a quotient of large rates could overflow
        return np.minimum(rates / self.full_rate, most).astype(np.float32)


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
        full_rate: Rate that becomes relevance 1; None takes the 95th percentile of the smoothed rates of
            items with clicks or purchases, but at least the mean rate.

    Raises:
        DataError: There are no clicks, the rates differ no more than by chance, or (without `full_rate`) no
            rate is above the mean.
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
    return replace(model, full_rate=_usual_full_rate(model, counts))


def _chosen(counts: ClickCounts) -> npt.NDArray[np.bool_]:
    """Return which items have clicks or purchases, (items,)."""
    return counts.per_item(counts.clicks + counts.purchases) > 0


def _usual_full_rate(model: ClickModel, counts: ClickCounts) -> float:
    """Return the rate that becomes relevance 1 unless it is given.

    Items without clicks are left out: where few have any, they would be at the percentile too. A few items
    with most of the impressions can have a mean rate above the percentile.

    Raises:
        DataError: No rate is above the mean.
    """
    rates = model.rates(counts)
    if not rates.max() > model.rate * (1 + ROUNDING):
        raise DataError(
            f"--label_from: the smoothed rates of all {len(rates):,} pairs are equal ({model.rate:.3g}), so "
            "clicks do not tell the products apart. Give more data, a lower --click_prior_strength, or "
            "--label_max, the rate that becomes relevance 1."
        )
    return max(float(np.quantile(rates[_chosen(counts)], FULL_RATE_QUANTILE)), model.rate)


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
    freedom = float((examined - share - examined**2 / total).sum())
    # A single pair, or pairs of an impression each, have no freedom: any spread can be chance.
    between = (spread - chance) / freedom if freedom > ROUNDING * total else 0.0
    if not between > 0:
        raise DataError(
            f"--label_from: the click rates of {len(clicks):,} pairs differ no more than by chance (mean "
            f"rate {mean:.3g}, {total / len(clicks):,.1f} examined impressions a pair), so clicks do not "
            "tell the products apart. Give more data, or set --click_prior_strength, such as 20."
        )
    return max(float(mean * (1 - mean) / between - 1), 0.0)
