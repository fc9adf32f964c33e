"""Labels of relevance levels: a number, a mark that fills with the relevance, and a colour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from aisle.evaluation.document import Evaluation
from aisle.reporting.html.formatting import clean, clipped

__all__ = ["RelevanceLabel", "RelevanceLevels"]

_TOP, _LOWEST = 4, 0
_NOT_JUDGED = "not judged"
_LABEL_LENGTH = 16
_LEGEND_VALUES = 6
"""Levels that the legend lists separately; more become ranges."""


@dataclass(frozen=True)
class RelevanceLabel:
    """Label of a relevance on the page."""

    text: str
    """"1", "E 1" if the label map names it, or "not judged"."""
    level: int | None
    """0 (not relevant) to 4 (the highest relevance), None if unjudged; it decides mark and colour."""


class RelevanceLevels:
    """The relevance levels of an evaluation, from the highest to zero."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._shown = set(_shown(evaluation))
        values = {value for value in self._shown if value is not None} | _of_pairs(evaluation) | {0.0}
        if max(values) <= 1:
            values.add(1.0)
        self._values = sorted(values, reverse=True)
        self._names = _label_names(evaluation.provenance.configuration)

    def label(self, relevance: float | None) -> RelevanceLabel:
        """Return the label of a relevance; None stands for an unjudged product."""
        if relevance is None:
            return RelevanceLabel(_NOT_JUDGED, None)
        number = f"{relevance:g}"
        name = self._names.get(relevance)
        return RelevanceLabel(number if name is None else f"{name} {number}", self._level(relevance))

    def named(self, name: str) -> str:
        """Return the label's text for a level that the document names: "E 1" for "1"."""
        try:
            return self.label(float(name)).text
        except ValueError:
            return clean(name)

    def legend(self) -> tuple[RelevanceLabel, ...]:
        """Return the labels that the page shows, the highest first, "not judged" last."""
        judged = [value for value in self._values if value in self._shown]
        few = len(judged) <= _LEGEND_VALUES
        labels = tuple(map(self.label, judged)) if few else tuple(self._ranges(judged))
        return (*labels, self.label(None)) if None in self._shown else labels

    def _ranges(self, judged: list[float]) -> Iterator[RelevanceLabel]:
        for level in range(_TOP, _LOWEST - 1, -1):
            values = [value for value in judged if self._level(value) == level]
            if values:
                ends = f"{values[-1]:g}", f"{values[0]:g}"
                yield RelevanceLabel(ends[0] if ends[0] == ends[1] else " to ".join(ends), level)

    def _level(self, relevance: float) -> int:
        if relevance >= self._values[0]:
            return _TOP
        if relevance <= 0:
            return _LOWEST
        between = [value for value in self._values if 0 < value < self._values[0]]
        if len(between) == 1:
            return 2
        return round(3 - 2 * between.index(relevance) / (len(between) - 1))


def _shown(evaluation: Evaluation) -> Iterator[float | None]:
    for change in (*evaluation.improved, *evaluation.worsened):
        yield from (answer.relevance for answer in (*change.before, *change.after))
    for heatmap in evaluation.heatmaps:
        for row in heatmap.relevance:
            yield from row


def _of_pairs(evaluation: Evaluation) -> set[float]:
    rows = () if evaluation.pairs is None else evaluation.pairs.rows
    return set(_numbers(name for row in rows for name in (*row.histogram.counts, *row.by_grade)))


def _numbers(names: Iterable[str]) -> Iterator[float]:
    for name in names:
        try:
            yield float(name)
        except ValueError:
            continue


def _label_names(configuration: Mapping[str, object]) -> dict[float, str]:
    """Return the label of each relevance if the settings have a label map: {"E": 1.0} gives {1.0: "E"}."""
    labels = configuration.get("label_map")
    if not isinstance(labels, Mapping):
        return {}
    return {
        float(value): clipped(str(label), _LABEL_LENGTH)
        for label, value in labels.items()
        if isinstance(value, int | float) and str(label) != f"{value:g}"
    }
