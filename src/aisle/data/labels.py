"""Relevance labels as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from aisle.data.rows import Problem
from aisle.errors import DataError

__all__ = ["LabelReader"]

_CACHED = 1000
_LISTED = 10


class LabelReader:
    """Reads the labels of one column and remembers those that are no numbers.

    Args:
        column: the column's name, for messages.
        label_map: label to relevance; None when the labels are numbers themselves.
        highest: the largest number allowed; None for any.

    Raises:
        DataError: the map is empty, or gives a number out of range.
    """

    def __init__(self, column: str, *, label_map: Mapping[str, float] | None, highest: float | None) -> None:
        self._column = column
        self._map = (
            None if label_map is None else {label.strip(): value for label, value in label_map.items()}
        )
        self._highest = math.inf if highest is None else highest
        self._range = "at least 0" if highest is None else f"between 0 and {highest:g}"
        self._cache: dict[str, float | Problem] = {}
        self._words: dict[str, int] = {}
        if self._map is not None:
            self._check_map(self._map)

    def _check_map(self, label_map: Mapping[str, float]) -> None:
        if not label_map:
            raise DataError("--label_map is empty; give label=number pairs, or leave the flag out.")
        for label, value in label_map.items():
            if not self._allows(value):
                raise DataError(f"--label_map: {label!r} is {value}; a relevance is a number {self._range}.")

    def _allows(self, value: float) -> bool:
        return 0 <= value <= self._highest and math.isfinite(value)

    def read(self, value: object) -> float | Problem:
        """Return the relevance that a label stands for, or why it stands for none."""
        # Only texts are cached: True, 1 and 1.0 are one key of a dict and three labels of a map.
        if not isinstance(value, str):
            return self._parse(value)
        known = self._cache.get(value)
        if known is None:
            known = self._parse(value)
            if len(self._cache) < _CACHED:
                self._cache[value] = known
        if self._map is None and isinstance(known, Problem) and known.reason.endswith("not a number"):
            self._count_word(value.strip())
        return known

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
        if not self._allows(number):
            return Problem(f"{self._column} is not {self._range}", value)
        return number

    def _look_up(self, value: object, label_map: Mapping[str, float]) -> float | Problem:
        label = str(value).strip()
        if label not in label_map and isinstance(value, float) and value.is_integer():
            label = str(int(value))
        if label in label_map:
            return label_map[label]
        return Problem(f"{self._column} is not in the label map ({', '.join(label_map)})", value)

    def refuse_words(self, *, read: int) -> None:
        """Check that the labels are not mostly words, which need a map.

        Raises:
            DataError: more than half of the `read` rows have a word for a label.
        """
        if 2 * sum(self._words.values()) <= read:
            return
        words = sorted(self._words)
        example = ",".join(f"{word}={'1' if word == words[0] else '0'}" for word in words[:4])
        if set(words) <= {"E", "S", "C", "I"}:
            example = "E=1,S=0.1,C=0.01,I=0"
        raise DataError(
            f"Column {self._column!r} holds labels that are not numbers: {', '.join(map(repr, words))}. "
            f'Say what they are worth, in this way: --label_map "{example}".'
        )
