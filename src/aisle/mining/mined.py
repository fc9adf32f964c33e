"""The result of mining: hard negatives, and counts of the products that were excluded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from aisle.mining.mining_anchors import Anchor
from aisle.mining.reasons import REASONS, Reason

__all__ = ["Mined", "MinedNegative"]


@dataclass(frozen=True)
class MinedNegative:
    """Hard negative of an anchor.

    Attributes:
        row: Row of the catalogue.
        product_id: Id of the product.
        text: Text of the product.
        score: Score of the ranking.
        positive_score: Lowest score of the anchor's positives; None if the catalogue has none of them.
    """

    row: int
    product_id: str
    text: str
    score: float
    positive_score: float | None = None


@dataclass
class Mined:
    """Hard negatives of all anchors, and the products that were excluded.

    Attributes:
        per_query: Most negatives of an anchor.
        negatives: Anchor to its negatives, best ranked first; empty if there are none.
        excluded: Number of products that ranked above the last negative of their anchor, by reason.
    """

    per_query: int
    negatives: dict[Anchor, list[MinedNegative]] = field(default_factory=dict)
    excluded: Counter[Reason] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Number of negatives of all anchors."""
        return sum(map(len, self.negatives.values()))

    @property
    def without(self) -> int:
        """Number of anchors without a negative."""
        return sum(not found for found in self.negatives.values())

    @property
    def short(self) -> int:
        """Number of anchors with some negatives, but fewer than asked for."""
        return sum(0 < len(found) < self.per_query for found in self.negatives.values())

    @property
    def without_margin(self) -> int:
        """Number of anchors without a positive in the catalogue, from which a margin could be measured."""
        return sum(not anchor.positives for anchor in self.negatives)

    def by_reason(self) -> Mapping[Reason, int]:
        """Return the number of excluded products for each reason, 0 included."""
        return {reason: self.excluded[reason] for reason in REASONS}
