"""Captions of the charts, and their main figures as text for screen readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from aisle.evaluation.document import Evaluation
from aisle.reporting.html.formatting import clean, figure, metric_name, with_interval

__all__ = ["CHARTS", "alt_text"]

CHARTS = {
    "retrieval": "Ranking quality of each system, with the 95% interval of its mean.",
    "roc": "True positive rate against false positive rate, for every threshold on the score. "
    "The legend gives the area below each curve.",
    "precision_recall": "Precision against recall, for every threshold on the score. "
    "The legend gives the average precision.",
    "scores": "Scores of judged pairs by relevance level. The further apart the levels are, the better the "
    "scores separate them. Below each level: its number of pairs.",
    "training": "The training run of this model, step by step.",
    "recall_by_ef": "Share of the exact top 10 that the graph finds, and the time per query, "
    "measured when the index was built.",
    "reliability": "Share of relevant pairs against their predicted probability, on held-out queries. "
    "The grey line is a perfect prediction. The legend gives the calibration error.",
    "slices": "Gain on slices of the queries.",
}
"""Caption of each chart, by its name."""


def alt_text(name: str, evaluation: Evaluation) -> str:
    """Return the chart's caption and main figures as text."""
    facts = "; ".join(_FACTS[name](evaluation))
    return f"Chart. {CHARTS[name]} {facts}{'.' if facts else ''}".strip()


def _retrieval(evaluation: Evaluation) -> Iterator[str]:
    metric = evaluation.headline_metric
    for row in () if evaluation.retrieval is None else evaluation.retrieval.rows:
        if metric in row.metrics:
            yield f"{clean(row.name)}: {metric_name(metric)} {with_interval(row.metrics[metric])}"


def _areas(evaluation: Evaluation, metric: str) -> Iterator[str]:
    for row in () if evaluation.pairs is None else evaluation.pairs.rows:
        if metric in row.metrics:
            yield f"{clean(row.name)}: {figure(row.metrics[metric].value)}"


def _scores(evaluation: Evaluation) -> Iterator[str]:
    rows = () if evaluation.pairs is None else evaluation.pairs.rows
    levels = dict.fromkeys(clean(level) for row in rows for level in row.histogram.counts)
    yield "Relevance levels, from the top: " + ", ".join(levels)


def _training(evaluation: Evaluation) -> Iterator[str]:
    for curve in evaluation.training:
        if curve.values:
            first, last = figure(curve.values[0]), figure(curve.values[-1])
            yield f"{metric_name(curve.name)} from {first} to {last}"


def _recall_by_ef(evaluation: Evaluation) -> Iterator[str]:
    for point in evaluation.ann:
        yield f"ef {point.ef_search}: recall {figure(point.recall)} in {figure(point.milliseconds)} ms"


def _reliability(evaluation: Evaluation) -> Iterator[str]:
    modes = {} if evaluation.calibration is None else evaluation.calibration.modes
    for mode, scores in modes.items():
        yield f"{mode}: calibration error {figure(scores.calibration_error)} on {scores.pairs} pairs"


_FACTS: dict[str, Callable[[Evaluation], Iterator[str]]] = {
    "retrieval": _retrieval,
    "roc": partial(_areas, metric="roc_auc"),
    "precision_recall": partial(_areas, metric="average_precision"),
    "scores": _scores,
    "training": _training,
    "recall_by_ef": _recall_by_ef,
    "reliability": _reliability,
}
