"""The judged pairs of `mine`, with the rows of their products in the catalogue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aisle.commands.mine.dpr_questions import good_questions, passages_of
from aisle.commands.mine.training_data import TrainingFiles
from aisle.data.pairs import Pairs
from aisle.errors import DataError
from aisle.mining.known_products import POSITIVE_ABOVE, KnownProducts, Passages, relevance_levels
from aisle.mining.mined_catalog import MinedCatalog, ProductRows
from aisle.mining.text_keys import text_key

__all__ = ["JudgedData", "Positives", "find_positives", "judged_data"]


@dataclass(frozen=True, eq=False)
class JudgedData:
    """Judged pairs.

    Attributes:
        pairs: Pairs of a query and a product.
        passages: Question to its passages in DPR's json; empty for other data.
        known: Products that the pairs mark as relevant.
        rows: Rows of the pairs' products in the catalogue.
    """

    pairs: Pairs
    passages: Mapping[str, Passages]
    known: KnownProducts
    rows: ProductRows


@dataclass(frozen=True)
class Positives:
    """Positive pairs, and how many of their products the catalogue has.

    Attributes:
        pairs: Number of positive pairs.
        in_catalog: Number of those whose product is in the catalogue, by id or by text.
    """

    pairs: int
    in_catalog: int


def judged_data(training: TrainingFiles, catalog: MinedCatalog, log: Callable[[str], None]) -> JudgedData:
    """Return the training data, and where the catalogue has their products.

    Raises:
        DataError: Rows are bad, or no pairs are left.
    """
    pairs = training.pairs(catalog, log)
    passages = passages_of(good_questions(training)) if training.is_dpr else {}
    ids = {*(pairs.product_ids or ()), *(one for each in passages.values() for one in each.ids)}
    rows = catalog.rows_of(ids, {text_key(product) for product in pairs.products})
    known = KnownProducts.of(pairs, catalog.texts_of(pairs.product_ids or ()), passages=passages)
    return JudgedData(pairs, passages, known, rows)


def find_positives(data: JudgedData) -> Positives:
    """Return how many positives are in the catalogue.

    Passages of DPR's json count by their texts; of those with other texts, as many count as the question has
    ids in the catalogue.

    Raises:
        DataError: There is no positive, or no positive is in the catalogue, so that none could be excluded.
    """
    pairs, rows = data.pairs, data.rows
    ids: Sequence[str | None] = pairs.product_ids or [None] * len(pairs)
    count, found, missing = 0, 0, Counter[str]()
    for query, product, product_id, level in zip(
        pairs.queries, pairs.products, ids, relevance_levels(pairs), strict=True
    ):
        if level <= POSITIVE_ABOVE:
            continue
        count += 1
        if rows.find(product_id, text_key(product)):
            found += 1
        else:
            missing[query] += 1
    if not count:
        raise DataError("The training data have no positive: no relevance is above 0.5. Check the labels.")
    for query, number in missing.items():
        passages = data.passages.get(query, Passages())
        found += min(number, len(passages.ids & rows.by_id.keys()))
    if not found:
        raise DataError(
            "No positive of the training data is in the catalogue, by id or by text, so that positives could "
            "be mined as negatives. Name the columns of ids (--product_id_column, --id_column), or give the "
            "--text_template with which the training texts were made."
        )
    return Positives(count, found)
