"""Relevance grades as labels: a number, a mark that fills with the grade, a colour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from aisle.evaluation.document import Evaluation
from aisle.reporting.html.formatting import clean, clipped

__all__ = ["Grade", "Grades"]

_TOP, _LOWEST = 4, 0
_NOT_JUDGED = "not judged"
_LABEL_LENGTH = 16
_LEGEND_VALUES = 6
"""Grades that the legend names one by one; more become ranges."""


@dataclass(frozen=True)
class Grade:
    """A grade as it is shown."""

    text: str
    """"1", "E 1" where the label map names it, or "not judged"."""
    level: int | None
    """0 (not relevant) to 4 (the highest grade), None where nobody has judged: picks mark and colour."""


class Grades:
    """The grades of one evaluation, from the highest to zero."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._shown = set(_shown(evaluation))
        values = {value for value in self._shown if value is not None} | _of_pairs(evaluation) | {0.0}
        if max(values) <= 1:
            values.add(1.0)
        self._values = sorted(values, reverse=True)
        self._names = _label_names(evaluation.provenance.configuration)

    def grade(self, relevance: float | None) -> Grade:
        """Return how a relevance is shown; None is a product that nobody has judged."""
        if relevance is None:
            return Grade(_NOT_JUDGED, None)
        number = f"{relevance:g}"
        name = self._names.get(relevance)
        return Grade(number if name is None else f"{name} {number}", self._level(relevance))

    def named(self, name: str) -> str:
        """Return the text of a grade that the document has as a name: "E 1" for "1"."""
        try:
            return self.grade(float(name)).text
        except ValueError:
            return clean(name)

    def legend(self) -> tuple[Grade, ...]:
        """Return the grades that the page shows, the highest first, "not judged" last."""
        judged = [value for value in self._values if value in self._shown]
        if len(judged) <= _LEGEND_VALUES:
            grades = [self.grade(value) for value in judged]
        else:
            grades = list(self._ranges(judged))
        return (*grades, self.grade(None)) if None in self._shown else tuple(grades)

    def _ranges(self, judged: list[float]) -> Iterator[Grade]:
        for level in range(_TOP, _LOWEST - 1, -1):
            values = [value for value in judged if self._level(value) == level]
            if values:
                ends = f"{values[-1]:g}", f"{values[0]:g}"
                yield Grade(ends[0] if ends[0] == ends[1] else " to ".join(ends), level)

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
    """Return the label of each grade where the settings have a label map: {"E": 1.0} gives {1.0: "E"}."""
    labels = configuration.get("label_map")
    if not isinstance(labels, Mapping):
        return {}
    return {
        float(value): clipped(str(label), _LABEL_LENGTH)
        for label, value in labels.items()
        if isinstance(value, int | float) and str(label) != f"{value:g}"
    }
