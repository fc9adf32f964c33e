"""Contents of the page, in the order and form that the template writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aisle.evaluation.changes import FEWEST_QUERIES, ranks_of
from aisle.evaluation.document import Answer, Difference, Evaluation, Heatmap, QueryChange
from aisle.reporting.html.charts import styles_of
from aisle.reporting.html.formatting import advice_of, clean, headline_of
from aisle.reporting.html.page_tables import TableMaker
from aisle.reporting.html.relevance_levels import RelevanceLabel, RelevanceLevels
from aisle.reporting.html.reliability import calibration_table

__all__ = ["heat_rows", "page_content"]

HEAT_LEVELS = 10


@dataclass(frozen=True)
class HeatCell:
    """A score of a heat map."""

    score: float
    level: int
    """0 (the lowest score of all heat maps) to 9."""
    relevance: RelevanceLabel | None
    """None if the pair is unjudged."""


@dataclass(frozen=True)
class ShownAnswer:
    """A product of a ranking."""

    title: str
    product_id: str
    """Empty if the title is the id."""
    score: float
    relevance: RelevanceLabel
    moved: str
    """Rank in the other ranking: "new", "was 4", "now 2", "out"; empty if the rank is the same."""


@dataclass(frozen=True)
class ShownChange:
    """A query with its two rankings."""

    change: QueryChange
    before: tuple[ShownAnswer, ...]
    after: tuple[ShownAnswer, ...]


def page_content(evaluation: Evaluation) -> dict[str, Any]:
    """Return the template's variables; parts that the evaluation lacks are None or empty."""
    levels = RelevanceLevels(evaluation)
    tables = TableMaker(evaluation, styles_of(evaluation))
    retrieval = evaluation.retrieval if evaluation.retrieval and evaluation.retrieval.rows else None
    pairs = evaluation.pairs if evaluation.pairs and evaluation.pairs.rows else None
    content = {
        "evaluation": evaluation,
        "headline": headline_of(evaluation),
        "difference": _headline_difference(evaluation),
        "tries": advice_of(evaluation),
        "ranks": ranks_of(evaluation.headline_metric),
        "fewest_queries": FEWEST_QUERIES,
        "base": clean(evaluation.base or "base"),
        "tuned": clean(evaluation.tuned or "tuned"),
        "retrieval": retrieval,
        "retrieval_tables": ()
        if retrieval is None
        else (tables.retrieval(retrieval), tables.differences(retrieval)),
        "joint_pool_tables": (tables.joint_pool(evaluation.joint_pool),) if evaluation.joint_pool else (),
        "pairs": pairs,
        "pairs_tables": ()
        if pairs is None
        else (tables.pairs(pairs), tables.relevance_levels(pairs, levels.named)),
        "loss_tables": (tables.graph_loss(evaluation.graph),) if evaluation.graph else (),
        "graph_tables": (tables.graph(evaluation.ann),) if evaluation.ann else (),
        "calibration_tables": ()
        if evaluation.calibration is None
        else (calibration_table(evaluation.calibration),),
        "slices_tables": tables.slices(evaluation.slices),
        "heatmaps": tuple(heat_rows(evaluation.heatmaps, levels)),
        "legend": levels.legend(),
        "changes": tuple(
            (title, name, [_shown(change, levels) for change in changes])
            for title, name, changes in (
                ("Most improved queries", "improved", evaluation.improved),
                ("Most worsened queries", "worsened", evaluation.worsened),
            )
            if changes
        ),
        "settings": tuple(_settings(evaluation.provenance.configuration)),
    }
    return {**content, "sections": tuple(_sections(evaluation, content))}


def _sections(evaluation: Evaluation, content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (id, title) of the sections that have content, in the page's order."""
    parts = (
        ("retrieval", "Retrieval", content["retrieval"]),
        ("joint-pool", "Joint pool", evaluation.joint_pool),
        ("pairs", "Judged pairs", content["pairs"]),
        ("training", "Training", any(curve.values for curve in evaluation.training)),
        ("graph", "Recall against latency", evaluation.ann or evaluation.ann_recall_at_10 is not None),
        ("calibration", "Probability of relevance", evaluation.calibration),
        ("heatmaps", "Similarity", content["heatmaps"]),
        ("slices", "Where the gain comes from", evaluation.slices),
        ("changes", "Changed queries", content["changes"]),
    )
    yield from ((name, title) for name, title, there in parts if there)
    yield "provenance", "How it was made"


def _headline_difference(evaluation: Evaluation) -> Difference | None:
    rows = () if evaluation.retrieval is None else evaluation.retrieval.rows
    found = (row.differences.get(evaluation.headline_metric) for row in rows if row.name == evaluation.tuned)
    difference = next(found, None)
    return difference if difference and difference.better + difference.worse + difference.equal else None


def heat_rows(
    heatmaps: Sequence[Heatmap], levels: RelevanceLevels | None = None
) -> Iterator[tuple[Heatmap, list[tuple[str, list[HeatCell]]]]]:
    """Yield each heat map with its rows, all on the same scale of colours.

    Args:
        heatmaps: Heat maps of a page.
        levels: Labels of relevance levels; None leaves the judgements out.
    """
    scores = [score for heatmap in heatmaps for row in heatmap.scores for score in row]
    low, high = min(scores, default=0.0), max(scores, default=1.0)

    def cell(score: float, judged: float | None) -> HeatCell:
        label = None if judged is None or levels is None else levels.label(judged)
        return HeatCell(score, _level(score, low, high), label)

    for heatmap in heatmaps:
        if not heatmap.queries or not heatmap.products:
            continue
        rows = zip(heatmap.queries, heatmap.scores, heatmap.relevance, strict=True)
        yield heatmap, [(query, [*map(cell, row, relevance)]) for query, row, relevance in rows]


def _level(score: float, low: float, high: float) -> int:
    return 0 if high <= low else min(HEAT_LEVELS - 1, int((score - low) / (high - low) * HEAT_LEVELS))


def _shown(change: QueryChange, levels: RelevanceLevels) -> ShownChange:
    before = {answer.product_id: rank for rank, answer in enumerate(change.before, start=1)}
    after = {answer.product_id: rank for rank, answer in enumerate(change.after, start=1)}
    return ShownChange(
        change,
        tuple(_answers(change.before, after, levels, gone="out", moved="now")),
        tuple(_answers(change.after, before, levels, gone="new", moved="was")),
    )


def _answers(
    answers: Sequence[Answer], ranks: Mapping[str, int], levels: RelevanceLevels, *, gone: str, moved: str
) -> Iterator[ShownAnswer]:
    for rank, answer in enumerate(answers, start=1):
        other = ranks.get(answer.product_id)
        note = gone if other is None else "" if other == rank else f"{moved} {other}"
        product_id = "" if answer.title == answer.product_id else answer.product_id
        yield ShownAnswer(answer.title, product_id, answer.score, levels.label(answer.relevance), note)


def _settings(configuration: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, value) of every setting; those in groups are named "group.name"."""
    for name, value in configuration.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{prefix}{name}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            yield clean(f"{prefix}{name}"), clean(shown)
