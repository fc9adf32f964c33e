"""Report of `mine`: how many hard negatives there are, and what was excluded for which reason."""

from __future__ import annotations

from dataclasses import asdict

from aisle.commands.mine.catalog_search import ProductSearch
from aisle.commands.mine.judged_data import Positives
from aisle.commands.mine.settings import MineSettings
from aisle.commands.output import Output
from aisle.data.pairs import Pairs
from aisle.mining.hard_negatives import Mined

LOW_SHARE = 0.5
"""Share of the positives in the catalogue below which the report warns."""


def show_report(
    settings: MineSettings,
    pairs: Pairs,
    positives: Positives,
    mined: Mined,
    search: ProductSearch,
    output: Output,
) -> None:
    """Print the counts, and warn if many positives are not in the catalogue."""
    queries, margin = len({anchor.query for anchor in mined.negatives}), settings.chosen_margin
    output.log(
        f"mined {mined.count:,} hard negatives for {queries:,} queries: at most {settings.per_query} "
        f"{'each' if margin is None else 'for each positive'}, the first of the {settings.depth:,} best "
        "ranked products that are not excluded"
    )
    if mined.without or mined.short:
        what = "queries" if margin is None else "positives"
        output.log(f"{what} without a hard negative: {mined.without:,}; with fewer: {mined.short:,}")
    if margin is not None and mined.without_margin:
        output.log(
            f"{mined.without_margin:,} positives are not in the catalogue, so that their negatives have no "
            "margin"
        )
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
            "model": search.model,
            "margin": None if margin is None else str(margin),
            "depth": settings.depth,
            "per_query": settings.per_query,
            "pairs": len(pairs),
            "positives": asdict(positives),
            "queries": queries,
            "hard_negatives": mined.count,
            "anchors": len(mined.negatives),
            "queries_without": mined.without,
            "queries_with_fewer": mined.short,
            "without_margin": mined.without_margin,
            "excluded": {
                reason.replace(" ", "_").replace("-", "_"): count
                for reason, count in mined.by_reason().items()
            },
        }
    )
