"""`aisle evaluate`: measure an index, or a model, against judgements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.evaluate.settings import EvaluateSettings, evaluation_inputs, evaluation_problems

if TYPE_CHECKING:
    from aisle.evaluation.document import Evaluation


def evaluate(settings: EvaluateSettings) -> Evaluation | None:
    """Measure, report and return the evaluation; see `aisle.commands.evaluate.run`."""
    from aisle.commands.evaluate import run

    return run.evaluate(settings)


COMMAND = Command(
    "evaluate",
    EvaluateSettings,
    evaluate,
    problems=evaluation_problems,
    inputs=evaluation_inputs,
    extra="eval",
)
