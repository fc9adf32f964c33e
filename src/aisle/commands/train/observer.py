"""Follow a training run from outside, and end it early by raising."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aisle.training.loop import Trainer

__all__ = ["Observer", "follow"]


@dataclass(frozen=True)
class Observer:
    """Functions that are called during a run; an exception that they raise ends it without saving.

    Attributes:
        on_log: Function called every --logging_steps with the steps that are done and those of the run.
        on_evaluation: Function called with each evaluation, and the same two numbers.
    """

    on_log: Callable[[int, int], None]
    on_evaluation: Callable[[Mapping[str, Any], int, int], None]


def follow(trainer: Trainer, observer: Observer | None) -> None:
    """Have a trainer call the observer, if there is one, after what it calls already."""
    if observer is None:
        return
    on_log, on_evaluation = trainer.on_log, trainer.on_evaluation
    steps = trainer.schedule.total_steps

    def log(values: dict[str, Any]) -> None:
        on_log(values)
        observer.on_log(values["step"], steps)

    def evaluation(entry: dict[str, Any]) -> None:
        on_evaluation(entry)
        observer.on_evaluation(entry, entry["step"], steps)

    trainer.on_log, trainer.on_evaluation = log, evaluation
