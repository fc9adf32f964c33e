"""Impressions and clicks of items at positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ClickCounts", "Floats", "Ints", "summed_by"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


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
        return summed_by(self.item, values, self.items)


def summed_by(group: Ints, values: Floats, count: int) -> Floats:
    """Return the sum of the values of each group 0, 1, ...: (count,) float64."""
    return np.asarray(np.bincount(group, weights=values, minlength=count), np.float64)
