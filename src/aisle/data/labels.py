"""Read relevance labels as numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from aisle.data.rows import Problem
from aisle.errors import DataError

__all__ = ["LabelReader", "map_advice"]

_CACHED = 1000
_LISTED = 10
_MOST_GRADES = 12
"""Labels with more distinct numbers than this are not relevance levels."""
_SHARE = 100
"""If one row in this many or more has a label above 1, it is a scale and not a typing error."""
_POSITIVE_ABOVE = 0.5
"""Relevance above this is a positive, as everywhere that two classes are needed."""


class LabelReader:
    """Reader of the labels of a column; it counts labels that are not numbers.

    Args:
        column: Name of the column, for messages.
        label_map: Label to relevance; None if the labels are numbers.
        highest: Largest number allowed; None for no limit.
        divisor: Number by which labels are divided to give the relevance; not with a map.

    Raises:
        DataError: The map is empty, or has a number out of range.
    """

    def __init__(
        self,
        column: str,
        *,
        label_map: Mapping[str, float] | None,
        highest: float | None,
        divisor: float = 1,
    ) -> None:
        self._column = column
        self._divisor = divisor
        self._map = (
            None if label_map is None else {label.strip(): value for label, value in label_map.items()}
        )
        self._highest = math.inf if highest is None else highest
        self._range = "at least 0" if highest is None else f"between 0 and {highest:g}"
        self._cache: dict[str, float | Problem] = {}
        self._words: dict[str, int] = {}
        self._numbers: set[float] = set()
        self._outside = 0
        self._unmapped: dict[str, None] = {}
        self._positive = False
        if self._map is not None:
            self._check_map(self._map)

    def _check_map(self, label_map: Mapping[str, float]) -> None:
        if not label_map:
            raise DataError("--label_map is empty; give label=number pairs, or leave the flag out.")
        for label, value in label_map.items():
            if not self._allows(value):
                raise DataError(f"--label_map: {label!r} is {value}; a relevance must be {self._range}.")

    def _allows(self, value: float) -> bool:
        return 0 <= value <= self._highest and math.isfinite(value)

    def read(self, value: object) -> float | Problem:
        """Return the relevance of a label, or the problem with it."""
        # Only texts are cached: True, 1 and 1.0 are the same key of a dict, but three labels of a map.
        if not isinstance(value, str):
            return self._counted(self._parse(value))
        known = self._cache.get(value)
        if known is None:
            known = self._parse(value)
            if len(self._cache) < _CACHED:
                self._cache[value] = known
        if self._map is None and isinstance(known, Problem) and known.reason.endswith("not a number"):
            self._count_word(value.strip())
        return self._counted(known)

    def _counted(self, found: float | Problem) -> float | Problem:
        if not isinstance(found, Problem):
            self._positive = self._positive or found > _POSITIVE_ABOVE
        elif self._map is None:
            self._outside += found.reason.endswith(self._range)
        elif len(self._unmapped) < _LISTED and found.found is not None:
            self._unmapped.setdefault(str(found.found).strip())
        return found

    def _count_word(self, word: str) -> None:
        if word in self._words or len(self._words) < _LISTED:
            self._words[word] = self._words.get(word, 0) + 1

    def _parse(self, value: object) -> float | Problem:
        if value is None or (isinstance(value, str) and not value.strip()):
            return Problem(f"{self._column} is {'null' if value is None else 'blank'}", value)
        if self._map is not None:
            return self._look_up(value, self._map)
        if not isinstance(value, bool | int | float | str):
            return Problem(f"{self._column} is not a number", value)
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return Problem(f"{self._column} is not a number", value)
        if len(self._numbers) <= _MOST_GRADES and math.isfinite(number):
            self._numbers.add(number)
        if not self._allows(number):
            return Problem(f"{self._column} is not {self._range}", value)
        return number / self._divisor

    def _look_up(self, value: object, label_map: Mapping[str, float]) -> float | Problem:
        label = str(value).strip()
        if label not in label_map and isinstance(value, float) and value.is_integer():
            label = str(int(value))
        if label in label_map:
            return label_map[label]
        return Problem(f"{self._column} is not in the label map ({', '.join(label_map)})", value)

    def refuse_unusable(self, *, read: int) -> None:
        """Refuse labels that need a label map before they can be used.

        Skipping such rows (`--on_bad_row skip`) would keep only the lower labels.

        Args:
            read: Number of rows read, good and bad.

        Raises:
            DataError: More than half of the labels are words, levels such as 0 to 4 exceed 1, or some labels
                cannot be used and no other label is a positive.
        """
        words = sum(self._words.values())
        if 2 * words > read or (words and not self._positive):
            raise DataError(
                f"Column {self._column!r} holds labels that are not numbers: "
                f"{', '.join(map(repr, sorted(self._words)))}. {map_advice(self._words)}"
            )
        steps = len(self._numbers) <= _MOST_GRADES and all(
            (2 * number).is_integer() for number in self._numbers
        )
        grades = steps and self._outside > 1 and _SHARE * self._outside >= read
        if self._outside and (grades or not self._positive):
            raise DataError(
                f"Column {self._column!r} is not {self._range} in {self._outside:,} of {read:,} rows; it "
                f"holds {self._numbers_shown()}. {self._scale_advice()}"
            )
        if self._unmapped and self._map is not None and not self._positive:
            raise DataError(
                f"--label_map: with the labels that it names ({', '.join(self._map)}) no row is a positive "
                f"(relevance above {_POSITIVE_ABOVE}), and column {self._column!r} also holds "
                f"{', '.join(map(repr, self._unmapped))}. Add those."
            )

    def _numbers_shown(self) -> str:
        shown = sorted(self._numbers)
        if len(shown) > _MOST_GRADES:
            return f"from {shown[0]:g} to {shown[-1]:g}"
        return ", ".join(f"{number:g}" for number in shown)

    def _scale_advice(self) -> str:
        if len(self._numbers) > _MOST_GRADES:
            return "To divide it by the highest possible value, give that value with --label_max."
        highest = max(self._numbers)
        example = ",".join(f"{number:g}={max(number, 0) / highest:.4g}" for number in sorted(self._numbers))
        divided = f"--label_max {highest:g} divides them by {highest:g}. " if min(self._numbers) >= 0 else ""
        return (
            f"{divided}If these are relevance levels, give the relevance of each, for example in equal "
            f"steps: --label_map {example}"
        )


def map_advice(words: Collection[str]) -> str:
    """Return advice on --label_map for labels that are words; only the user knows their relevance."""
    if set(words) <= {"E", "S", "C", "I"}:
        return 'Give the relevance of each: --label_map "E=1,S=0.1,C=0.01,I=0".'
    blank = ",".join(f"{word}=" for word in sorted(words))
    more = ", and the same for the other labels" if len(words) == _LISTED else ""
    return (
        f'Give the relevance of each, from 0 (wrong) to 1 (right): --label_map "{blank}", with a number '
        f"after each sign{more}."
    )
