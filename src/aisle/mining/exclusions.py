"""Rules that exclude products from the hard negatives of a query, in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.index.scoring import FloatArray, Rows, row_scores
from aisle.mining.known_products import UNJUDGED, KnownProducts
from aisle.mining.margin import Margin
from aisle.mining.mined_catalog import Product, RelevantRows
from aisle.mining.mining_anchors import Anchor
from aisle.mining.product_groups import ProductGroups
from aisle.mining.reasons import Reason

__all__ = ["AnchorRules", "Candidate", "Exclusions", "NearDuplicates"]


@dataclass(frozen=True)
class NearDuplicates:
    """Products with nearly the embedding of a relevant product.

    Attributes:
        embeddings: (count, dim) embeddings of the catalogue, unit L2 norm.
        cosine: Lowest cosine of near-duplicates.
    """

    embeddings: FloatArray
    cosine: float

    def levels(self, rows: Rows, relevant: RelevantRows) -> npt.NDArray[np.float64]:
        """Return the highest relevance of the products that each product is nearly equal to.

        Args:
            rows: Products to compare.
            relevant: Relevant products of a query.

        Returns:
            (rows,) float64; `UNJUDGED` for a product that is not near a relevant product.
        """
        asked = np.asarray(self.embeddings[relevant.rows], np.float32)
        cosines = row_scores(self.embeddings, np.tile(rows, (len(asked), 1)), asked)
        near = np.where(cosines >= np.float32(self.cosine), relevant.levels[:, None], UNJUDGED)
        found: npt.NDArray[np.float64] = near.max(axis=0, initial=UNJUDGED)
        return found


@dataclass(frozen=True)
class Exclusions:
    """Rules of all queries.

    Attributes:
        known: Products that the training data mark as relevant.
        groups: Groups of products.
        near: Near-duplicates by embedding; None without embeddings.
        margin: Distance of a negative from its positive; None without.
    """

    known: KnownProducts
    groups: ProductGroups
    near: NearDuplicates | None = None
    margin: Margin | None = None


@dataclass(frozen=True)
class Candidate:
    """A ranked product, and what the rules need of it.

    Attributes:
        row: Row of the catalogue.
        product: Its id and text.
        score: Score of the ranking.
        payload: Its groups in the catalogue.
        near: Highest relevance of the query's products with nearly the same embedding.
    """

    row: int
    product: Product
    score: float
    payload: Mapping[str, object]
    near: float


@dataclass(frozen=True)
class AnchorRules:
    """The rules for the candidates of an anchor.

    Attributes:
        exclusions: Rules of all queries.
        anchor: Query and positives that the negatives are for.
        groups: Groups of the query's relevant products, with their highest relevance.
        limit: Highest score of a negative; None without.
    """

    exclusions: Exclusions
    anchor: Anchor
    groups: Mapping[str, float]
    limit: float | None

    def reason(self, candidate: Candidate) -> Reason | None:
        """Return why a candidate is not a negative of the anchor, or None.

        A product that is judged lower than the anchor stays a negative whatever its embedding or score.

        Args:
            candidate: Candidate of the query.
        """
        known, anchor, query = self.exclusions.known, self.anchor, self.anchor.query
        product_id, text = candidate.product.product_id, candidate.product.text
        reason = known.reason(query, product_id, text, lowest=anchor.lowest)
        if reason is not None:
            return reason
        related = self.exclusions.groups.reasons(
            known.query_number[query],
            self.groups,
            lowest=anchor.lowest,
            product_id=product_id,
            text=text,
            payload=candidate.payload,
        )
        if "same group" in related:
            return "same group"
        if known.level(query, product_id, text) is not None:  # lower than the anchor, or it was excluded
            return None
        if "same subgroup" in related:
            return "same subgroup"
        near = candidate.near >= anchor.lowest
        if near or known.has_words_of_relevant(query, text, lowest=anchor.lowest):
            return "near-duplicate"
        return "above the margin" if self.limit is not None and candidate.score > self.limit else None
