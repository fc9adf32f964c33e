"""Report of `mine`: how many hard negatives there are, how hard they are, and what was excluded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aisle.commands.mine.catalog_search import ProductSearch
from aisle.commands.mine.judged_data import Positives
from aisle.commands.mine.settings import MineSettings
from aisle.commands.output import Output
from aisle.io.durable import replace_text
from aisle.mining.mined import Mined
from aisle.mining.mining_figures import FalseNegatives, hardness

LOW_SHARE = 0.5
"""Share of the positives in the catalogue below which the report warns."""
REPORT_END = ".mining.json"
"""End of the name of the report beside the output."""


@dataclass(frozen=True, eq=False)
class MiningReport:
    """Report of a call.

    Attributes:
        settings: Settings of the command.
        pairs: Number of training pairs.
        positives: Positives among them.
        mined: Hard negatives.
        search: How the products were ranked.
        false: Negatives that are judged relevant by held-out pairs; None without held-out pairs.
    """

    settings: MineSettings
    pairs: int
    positives: Positives
    mined: Mined
    search: ProductSearch
    false: FalseNegatives | None

    def show(self, output: Output) -> None:
        """Print the figures, and warn if many positives are not in the catalogue."""
        settings, mined, positives = self.settings, self.mined, self.positives
        margin = settings.chosen_margin
        output.log(
            f"mined {mined.count:,} hard negatives for {self._queries:,} queries: at most "
            f"{settings.per_query} {'each' if margin is None else 'for each positive'}, the first of the "
            f"{settings.depth:,} best ranked products that are not excluded"
        )
        if mined.without or mined.short:
            what = "queries" if margin is None else "positives"
            output.log(f"{what} without a hard negative: {mined.without:,}; with fewer: {mined.short:,}")
        if margin is not None and mined.without_margin:
            output.log(
                f"{mined.without_margin:,} positives are not in the catalogue, so that their negatives have "
                "no margin"
            )
        excluded = {reason: count for reason, count in mined.by_reason().items() if count}
        output.log(
            "excluded: " + (", ".join(f"{count:,} {reason}" for reason, count in excluded.items()) or "none")
        )
        self._show_hardness(output)
        if self.false is not None:
            output.log(_false_text(self.false))
        if positives.in_catalog < LOW_SHARE * positives.pairs:
            output.log(
                f"warning: only {positives.in_catalog:,} of {positives.pairs:,} positives are in the "
                "catalogue, by id or by text; if the others are there with other texts, they can be among "
                "the hard negatives. Give product ids, or the --text_template with which the training texts "
                "were made"
            )
        output.log(f"saved to {settings.output_file}, and the report beside it")
        output.document(self.document())

    def write(self, path: Path) -> None:
        """Write the document of the report beside the output."""
        text = json.dumps(self.document(), indent=2, ensure_ascii=False)
        replace_text(path.with_name(path.name + REPORT_END), text + "\n")

    def document(self) -> dict[str, Any]:
        """Return the report as JSON."""
        settings, mined, margin = self.settings, self.mined, self.settings.chosen_margin
        hard = None if settings.source == "random" else hardness(mined)
        return {
            "output_file": settings.output_file,
            "source": settings.source,
            "model": self.search.model,
            "teacher": settings.teacher,
            "margin": None if margin is None else str(margin),
            "depth": settings.depth,
            "per_query": settings.per_query,
            "pairs": self.pairs,
            "positives": asdict(self.positives),
            "queries": self._queries,
            "hard_negatives": mined.count,
            "anchors": len(mined.negatives),
            "queries_without": mined.without,
            "queries_with_fewer": mined.short,
            "without_margin": mined.without_margin,
            "excluded": {
                reason.replace(" ", "_").replace("-", "_"): count
                for reason, count in mined.by_reason().items()
            },
            "hardness": hard
            and {
                "negatives": hard.negatives,
                "score_less_positive": {f"{at:g}": round(gap, 6) for at, gap in hard.quantiles.items()},
                "above_positive": hard.above,
            },
            "false_negatives": self.false
            and {**asdict(self.false), "share": self.false.share, "least": self.false.least},
        }

    @property
    def _queries(self) -> int:
        return len({anchor.query for anchor in self.mined.negatives})

    def _show_hardness(self, output: Output) -> None:
        hard = hardness(self.mined)
        if hard is None or self.settings.source == "random":
            return
        gaps = ", ".join(f"{gap:+.3f} ({at:.0%})" for at, gap in hard.quantiles.items())
        output.log(
            f"hardness: score less that of the positive, quantiles: {gaps}; {hard.above:,} of "
            f"{hard.negatives:,} score higher than their positive"
        )


def _false_text(false: FalseNegatives) -> str:
    """Return the estimate of false negatives in words."""
    if not false.judged:
        return (
            f"false negatives: no estimate, as the held-out pairs judge none of {false.negatives:,} hard "
            "negatives of their queries"
        )
    return (
        f"false negatives: the held-out pairs judge {false.judged:,} of {false.negatives:,} hard negatives "
        f"of their queries, and {false.relevant:,} of those are relevant ({false.share:.1%}); at least "
        f"{false.least:.1%} are false if all others are not relevant"
    )
