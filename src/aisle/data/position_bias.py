"""Estimate how often shoppers examine a position: the position-based model of clicks.

A shopper clicks a product if the position is examined and the product attracts:
`P(click) = propensity(position) * attraction(query, product)` (Craswell et al. 2008,
https://doi.org/10.1145/1341531.1341545).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aisle.data.click_counts import ClickCounts, Floats, Ints, summed_by
from aisle.errors import DataError

__all__ = ["Propensities", "estimate_propensities"]

ROUNDS = 1000
CONVERGED = 1e-6


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
    out. A position that clicks do not compare with those above has the propensity of the nearest above.

    Raises:
        DataError: Fewer than two positions can be compared.
    """
    keys, row = np.unique(np.stack([counts.item, counts.position], axis=1), axis=0, return_inverse=True)
    row = row.reshape(-1)
    shown, clicked = (summed_by(row, values, len(keys)) for values in (counts.impressions, counts.clicks))
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
            "--position_column: propensities cannot be estimated, because no pair has clicks both at the "
            f"top-most position with clicks and at another (the data has {len(found):,} "
            f"position{'s' * (len(found) > 1)}, from {found[0]} to {found[-1]}). Give "
            "--position_propensities, or leave --position_column out."
        )
    return Propensities(positions[known], values[known], compared=len(np.unique(item)))


def _connected_propensities(item: Ints, column: Ints, shown: Floats, clicked: Floats, count: int) -> Floats:
    """Return the propensity of each column; NaN for columns that cannot be compared with the first."""
    values = np.full(count, np.nan)
    if not count:
        return values
    clicks_of = np.bincount(column, weights=clicked, minlength=count)
    # The top-most position with clicks, and those that clicks connect with it.
    first = np.flatnonzero(clicks_of > 0)[0]
    part = _parts(item, column, clicked, count)
    kept = np.flatnonzero(part == part[first])
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


def _parts(item: Ints, column: Ints, clicked: Floats, count: int) -> Ints:
    """Return the part of each column; inside a part, the likelihood has a single highest point.

    A column has an edge to another if some item was shown in both and clicked in the other. Columns that
    reach each other are of a part. A column without a way back could have a propensity of 0, or one
    without a way there an infinite propensity (Hunter 2004, https://doi.org/10.1214/aos/1079120141).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    won = clicked > 0
    item = item + count  # columns and items are the two kinds of nodes
    start, end = np.concatenate([column, item[won]]), np.concatenate([item, column[won]])
    nodes = int(item.max()) + 1
    graph = coo_array((np.ones(len(start)), (start, end)), shape=(nodes, nodes))
    return np.asarray(connected_components(graph, directed=True, connection="strong")[1][:count], np.int64)
