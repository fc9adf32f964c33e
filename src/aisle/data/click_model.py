"""Estimate relevance from clicks: the examination model of positions, smoothing, and the scale to [0, 1].

A shopper clicks a product if the position is examined and the product attracts: the position-based model,
`P(click) = propensity(position) * attraction(query, product)` (Craswell et al. 2008,
https://doi.org/10.1145/1341531.1341545).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.errors import DataError

__all__ = ["ClickCounts", "ClickModel", "Propensities", "estimate_propensities", "fit_click_model"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FULL_RATE_QUANTILE = 0.95
"""Quantile of the smoothed rates that becomes relevance 1 by default; the maximum would be a single pair."""
ROUNDS = 1000
CONVERGED = 1e-6


@dataclass(frozen=True)
class ClickCounts:
    """Impressions and clicks of items at positions; an item is a query with a product or its variants.

    Attributes:
        item: (rows,) number of the item, from 0.
        position: (rows,) position of the product in the list, 1 is the top; all 1 if positions are unknown.
        impressions: (rows,) times that the product was shown there.
        clicks: (rows,) clicks, at most the impressions.
        purchases: (rows,) purchases.
    """

    item: Ints
    position: Ints
    impressions: Floats
    clicks: Floats
    purchases: Floats

    @property
    def items(self) -> int:
        """Number of items."""
        return int(self.item.max()) + 1 if len(self.item) else 0

    def per_item(self, values: Floats) -> Floats:
        """Return the sum of the rows' values for each item: (items,) float64."""
        return _sums(self.item, values, self.items)


@dataclass(frozen=True)
class Propensities:
    """Probability that a position is examined, relative to the top.

    Attributes:
        positions: (positions,) positions in ascending order.
        values: (positions,) propensity of each; a position between or below has that of the nearest above.
        compared: Items shown at several positions that they were estimated from; None if they were given.
    """

    positions: Ints
    values: Floats
    compared: int | None = None

    @classmethod
    def none(cls) -> Propensities:
        """Return propensities of 1 for all positions."""
        return cls(np.ones(1, np.int64), np.ones(1))

    @classmethod
    def given(cls, values: tuple[float, ...]) -> Propensities:
        """Return the propensities of positions 1, 2, ...; later positions have that of the last."""
        return cls(np.arange(1, len(values) + 1), np.asarray(values, np.float64))

    def of(self, position: Ints) -> Floats:
        """Return the propensity of each position."""
        nearest = np.searchsorted(self.positions, position, side="right") - 1
        return self.values[np.maximum(nearest, 0)]


def estimate_propensities(counts: ClickCounts) -> Propensities:
    """Return propensities estimated from items that were shown at several positions.

    Alternates `attraction = clicks / examined impressions` and `propensity = clicks / expected clicks`
    until they agree: the likelihood of a Poisson model with an effect of each item, whose estimates of
    positions are not biased by many items with few impressions (Hausman, Hall and Griliches 1984,
    https://doi.org/10.2307/1911191). Items at a single position tell nothing about positions and are left
    out. A position that no clicked item shares with those above has the propensity of the nearest above.

    Raises:
        DataError: Fewer than two positions can be compared.
    """
    keys, row = np.unique(np.stack([counts.item, counts.position], axis=1), axis=0, return_inverse=True)
    row = row.reshape(-1)
    shown, clicked = (_sums(row, values, len(keys)) for values in (counts.impressions, counts.clicks))
    item = keys[:, 0]
    useful = (np.bincount(item)[item] > 1) & (np.bincount(item, weights=clicked)[item] > 0)
    _, item = np.unique(item[useful], return_inverse=True)
    positions, column = np.unique(keys[useful, 1], return_inverse=True)
    shown, clicked = shown[useful], clicked[useful]
    values = _connected_propensities(item, column, shown, clicked, len(positions))
    known = ~np.isnan(values)
    if known.sum() < 2:
        found = np.unique(counts.position)
        raise DataError(
            "--position_column: propensities cannot be estimated, because no clicked pair was shown at "
            f"several positions that have clicks (the data has {len(found):,} positions, from {found[0]} "
            f"to {found[-1]}). Give --position_propensities, or leave --position_column out."
        )
    return Propensities(positions[known], values[known], compared=len(np.unique(item)))


def _sums(group: Ints, values: Floats, count: int) -> Floats:
    return np.asarray(np.bincount(group, weights=values, minlength=count), np.float64)


def _connected_propensities(item: Ints, column: Ints, shown: Floats, clicked: Floats, count: int) -> Floats:
    """Return the propensity of each column; NaN for columns that cannot be compared with the first."""
    values = np.full(count, np.nan)
    if not count:
        return values
    from aisle.data.negatives import equality_keys  # imports SciPy

    part = equality_keys(item, column)  # equal for rows that share an item or a position, through others too
    clicks_of = np.bincount(column, weights=clicked, minlength=count)
    # The top-most position with clicks, and those that items connect with it.
    first = np.flatnonzero(clicks_of > 0)[0]
    connected = part == part[np.flatnonzero(column == first)[0]]
    kept = np.unique(column[connected & (clicks_of[column] > 0)])
    inside = np.isin(column, kept)
    item, shown, clicked = item[inside], shown[inside], clicked[inside]
    column = np.searchsorted(kept, column[inside])
    effects = np.ones(len(kept))
    items_clicks = np.bincount(item, weights=clicked)
    for _ in range(ROUNDS):
        examined = np.bincount(item, weights=shown * effects[column])
        attraction = items_clicks / np.maximum(examined, np.finfo(np.float64).tiny)
        after = clicks_of[kept] / np.bincount(column, weights=shown * attraction[item])
        after /= after[0]
        change = np.abs(np.log(after / effects)).max()
        effects = after
        if change < CONVERGED:
            break
    values[kept] = effects
    return values


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
