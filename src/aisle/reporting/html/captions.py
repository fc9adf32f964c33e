"""What each chart shows, in words: a caption for everyone, and the figures for those who do not see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from aisle.evaluation.document import Evaluation
from aisle.reporting.html.formatting import clean, figure, metric_name, with_interval

__all__ = ["CHARTS", "alt_text"]

CHARTS = {
    "retrieval": "How well each system ranks, with the interval in which its mean lies.",
    "roc": "How many of the positive pairs are found at the price of how many of the others. "
    "Beside each system: the area below its curve.",
    "precision_recall": "How pure what is found stays as more is found. "
    "Beside each system: its average precision.",
    "scores": "How the scores of judged pairs fall, by grade. The further apart the grades lie, the better "
    "scores tell them apart. Below each grade: its number of pairs.",
    "training": "The run that made the encoder, step by step.",
    "recall_by_ef": "The exact top 10 that the graph found when the index was built, and in what time.",
    "slices": "The gain by parts of the queries.",
}
"""The caption of each figure, by its name."""


def alt_text(name: str, evaluation: Evaluation) -> str:
    """Return the figure's content in words: what is drawn, and the figures that matter."""
    said = "; ".join(_FACTS[name](evaluation))
    return f"Chart. {CHARTS[name]} {said}{'.' if said else ''}".strip()


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
    grades = dict.fromkeys(clean(grade) for row in rows for grade in row.histogram.counts)
    yield "Grades, from the top: " + ", ".join(grades)


def _training(evaluation: Evaluation) -> Iterator[str]:
    for curve in evaluation.training:
        if curve.values:
            first, last = figure(curve.values[0]), figure(curve.values[-1])
            yield f"{metric_name(curve.name)} from {first} to {last}"


def _recall_by_ef(evaluation: Evaluation) -> Iterator[str]:
    for point in evaluation.ann:
        yield f"ef {point.ef_search}: recall {figure(point.recall)} in {figure(point.milliseconds)} ms"


_FACTS: dict[str, Callable[[Evaluation], Iterator[str]]] = {
    "retrieval": _retrieval,
    "roc": partial(_areas, metric="roc_auc"),
    "precision_recall": partial(_areas, metric="average_precision"),
    "scores": _scores,
    "training": _training,
    "recall_by_ef": _recall_by_ef,
}
