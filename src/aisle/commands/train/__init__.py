"""`aisle train` and `train_peft.py`: fine-tune a model, from its settings to a finished run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.train.settings import TrainSettings, problems_of, train_inputs

if TYPE_CHECKING:
    from aisle.commands.train.finished_run import FinishedRun


def train(settings: TrainSettings) -> FinishedRun:
    """Train a model and return the finished run; see `aisle.commands.train.run`."""
    from aisle.commands.train import run

    return run.train_and_push(settings)


COMMAND = Command("train", TrainSettings, train, problems=problems_of, inputs=train_inputs, extra="train")
