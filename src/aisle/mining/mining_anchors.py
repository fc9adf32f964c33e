"""Anchors of hard negatives: a query, with the positives that its negatives are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aisle.data.pairs import Pairs
from aisle.mining.known_products import (
    ANY_RELEVANCE,
    POSITIVE_ABOVE,
    KnownProducts,
    relevance_levels,
)
from aisle.mining.mined_catalog import ProductRows
from aisle.mining.text_keys import text_key

__all__ = ["Anchor", "anchors_of_pairs", "anchors_of_queries"]


@dataclass(frozen=True)
class Anchor:
    """A query, with positives.

    Attributes:
        query: Text of the query.
        lowest: Lowest relevance of a judged product that is not a negative.
        positives: Rows in the catalogue of the positives that the margin is measured from: that of a pair, or
            all of the query. Empty if the catalogue has none.
    """

    query: str
    lowest: float = ANY_RELEVANCE
    positives: tuple[int, ...] = ()


def anchors_of_pairs(
    pairs: Pairs, known: KnownProducts, rows: ProductRows, *, graded: bool, by_product: bool
) -> list[Anchor | None]:
    """Return the anchor of each pair; None for a pair that is no positive.

    Args:
        pairs: Training pairs.
        known: Relevant products of the pairs.
        rows: Rows of the pairs' products in the catalogue.
        graded: Whether every pair with a relevance above 0 is a positive, and products that are judged lower
            may be its negatives; otherwise positives are above 0.5, and no relevant product is a negative.
        by_product: Whether the negatives of a pair depend on its product, as with a margin.
    """
    ids: Sequence[str | None] = pairs.product_ids or [None] * len(pairs)
    of_query = {anchor.query: anchor.positives for anchor in anchors_of_queries(pairs, known, rows)}
    anchors: list[Anchor | None] = []
    for query, product, product_id, level in zip(
        pairs.queries, pairs.products, ids, relevance_levels(pairs), strict=True
    ):
        if level <= (0 if graded else POSITIVE_ABOVE):
            anchors.append(None)
            continue
        own = rows.find(product_id, text_key(product)) if by_product else of_query.get(query, ())
        anchors.append(Anchor(query, level if graded else ANY_RELEVANCE, own))
    return anchors


def anchors_of_queries(pairs: Pairs, known: KnownProducts, rows: ProductRows) -> list[Anchor]:
    """Return an anchor for each query with a positive, in order, with all its positives."""
    queries = dict.fromkeys(
        query
        for query, level in zip(pairs.queries, relevance_levels(pairs), strict=True)
        if level > POSITIVE_ABOVE
    )
    return [Anchor(query, positives=rows.find_all(*known.positives(query))) for query in queries]
