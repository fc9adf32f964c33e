"""Report of `mine`: how many hard negatives there are, and what was excluded for which reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from aisle.commands.mine.settings import MineSettings
from aisle.commands.output import Output
from aisle.data.pairs import Pairs
from aisle.errors import DataError
from aisle.mining.hard_negatives import Mined
from aisle.mining.known_products import POSITIVE_ABOVE, text_key
from aisle.mining.mined_catalog import MinedCatalog

if TYPE_CHECKING:
    from collections.abc import Collection

LOW_SHARE = 0.5
"""Share of the positives in the catalogue below which the report warns."""


@dataclass(frozen=True)
class Positives:
    """Positive pairs, and how many of their products the catalogue has.

    Attributes:
        pairs: Number of positive pairs.
        in_catalog: Number of those whose product is in the catalogue, by id or by text.
    """

    pairs: int
    in_catalog: int


def find_positives(pairs: Pairs, catalog: MinedCatalog, known_ids: Collection[str]) -> Positives:
    """Return how many positives are in the catalogue.

    Args:
        pairs: Training pairs.
        catalog: Products that are searched.
        known_ids: Product ids of the pairs that the catalogue has.

    Raises:
        DataError: There is no positive, or no positive is in the catalogue, so that none could be excluded.
    """
    relevance, ids = pairs.relevance, pairs.product_ids
    rows = [row for row in range(len(pairs)) if relevance is None or relevance[row] > POSITIVE_ABOVE]
    if not rows:
        raise DataError("The training data have no positive: no relevance is above 0.5. Check the labels.")
    products = pairs.products
    keys = [text_key(products[row]) for row in rows]
    there = catalog.keys_among(set(keys), key_of=text_key)
    found = sum(
        key in there or (ids is not None and ids[row] in known_ids)
        for row, key in zip(rows, keys, strict=True)
    )
    if not found:
        raise DataError(
            "No positive of the training data is in the catalogue, by id or by text, so that positives could "
            "be mined as negatives. Name the columns of ids (--product_id_column, --id_column), or give the "
            "--text_template with which the training texts were made."
        )
    return Positives(len(rows), found)


def show_report(
    settings: MineSettings, pairs: Pairs, positives: Positives, mined: Mined, output: Output
) -> None:
    """Print the counts, and warn if many positives are not in the catalogue."""
    queries = len(mined.negatives)
    output.log(
        f"mined {mined.count:,} hard negatives for {queries:,} queries: at most {settings.per_query} each, "
        f"the first of the {settings.depth:,} best ranked products that are not excluded"
    )
    if mined.without or mined.short:
        output.log(f"queries without a hard negative: {mined.without:,}; with fewer: {mined.short:,}")
    excluded = {reason: count for reason, count in mined.by_reason().items() if count}
    output.log(
        "excluded: " + (", ".join(f"{count:,} {reason}" for reason, count in excluded.items()) or "none")
    )
    if positives.in_catalog < LOW_SHARE * positives.pairs:
        output.log(
            f"warning: only {positives.in_catalog:,} of {positives.pairs:,} positives are in the catalogue, "
            "by id or by text; if the others are there with other texts, they can be among the hard "
            "negatives. Give product ids, or the --text_template with which the training texts were made"
        )
    output.log(f"saved to {settings.output_file}")
    output.document(
        {
            "output_file": settings.output_file,
            "source": settings.source,
            "depth": settings.depth,
            "per_query": settings.per_query,
            "pairs": len(pairs),
            "positives": asdict(positives),
            "queries": queries,
            "hard_negatives": mined.count,
            "queries_without": mined.without,
            "queries_with_fewer": mined.short,
            "excluded": {reason.replace(" ", "_"): count for reason, count in mined.by_reason().items()},
        }
    )
