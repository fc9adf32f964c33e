"""The settings that a sweep searches, and the values that it tries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import optuna

__all__ = ["Choice", "Range", "SearchSpace", "Value"]

Value: TypeAlias = str | int | float


@dataclass(frozen=True)
class Choice:
    """A setting with a few values, without an order."""

    values: tuple[Value, ...]

    def with_value(self, value: Value) -> Choice:
        """Return the values and another."""
        return self if value in self.values else Choice((*self.values, value))

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Return the value of a trial."""
        found: Any = trial.suggest_categorical(name, self.values)
        return self.values[self.values.index(found)]

    def nearest(self, value: Value) -> Value | None:
        """Return the value of the space that is nearest to `value`; None if there is none."""
        if value in self.values:
            return value
        numbers = [each for each in self.values if not isinstance(each, str)]
        if isinstance(value, str) or not numbers:
            return None
        return min(numbers, key=lambda each: abs(math.log(float(each)) - math.log(max(float(value), 1e-9))))


@dataclass(frozen=True)
class Range:
    """A setting that is a number between two others.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether ratios matter, as for a learning rate.
        whole: Whether the value is an integer.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def with_value(self, value: Value) -> Range:
        """Return the range, extended to a number."""
        number = float(value)
        return replace(self, low=min(self.low, number), high=max(self.high, number))

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Return the value of a trial."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def nearest(self, value: Value) -> Value | None:
        """Return the value of the space that is nearest to `value`; None for a text."""
        if isinstance(value, str):
            return None
        inside = min(max(float(value), self.low), self.high)
        return round(inside) if self.whole else inside


@dataclass(frozen=True)
class SearchSpace:
    """The searched settings, by name.

    Attributes:
        settings: Name of a setting to its values.
    """

    settings: Mapping[str, Choice | Range]

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """Return the values of a trial."""
        return {name: values.suggest(trial, name) for name, values in self.settings.items()}

    def with_point(self, point: Mapping[str, Value]) -> SearchSpace:
        """Return the space, extended to the values of a point.

        Args:
            point: Values by name; names that are not searched are ignored.
        """
        return SearchSpace(
            {
                name: values.with_value(point[name]) if name in point else values
                for name, values in self.settings.items()
            }
        )

    def starts(self, wanted: Sequence[Mapping[str, Value]]) -> list[dict[str, Value]]:
        """Return starting points moved into the space, each once.

        A point with a value that the space does not have, such as another loss, is left out.

        Args:
            wanted: Values by name; names that are not searched are ignored.
        """
        found: list[dict[str, Value]] = []
        for point in wanted:
            moved = {
                name: values.nearest(point[name]) for name, values in self.settings.items() if name in point
            }
            inside = {name: value for name, value in moved.items() if value is not None}
            if len(inside) == len(moved) and inside not in found:
                found.append(inside)
        return found
