"""`aisle train-reranker` and `train_reranker.py`: fine-tune a cross-encoder that reranks products."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.train.reranker_settings import RerankerSettings, reranker_problems
from aisle.commands.train.settings import train_inputs
from aisle.errors import ConfigError

if TYPE_CHECKING:
    from aisle.commands.train.finished_run import FinishedRun


def train_reranker(settings: RerankerSettings) -> FinishedRun:
    """Train a cross-encoder and return the finished run; see `aisle.commands.train.run`."""
    from aisle.commands.train import run

    return run.train_and_push(settings)


def reranker_inputs(settings: RerankerSettings) -> None:
    """Check that data, a base model given as a folder, and the index exist."""
    train_inputs(settings)
    index_dir = settings.served.index_dir
    if index_dir is not None and not Path(index_dir).is_dir():
        raise ConfigError(f"--index_dir {index_dir}: there is no such folder")


COMMAND = Command(
    "train-reranker",
    RerankerSettings,
    train_reranker,
    problems=reranker_problems,
    inputs=reranker_inputs,
    extra="train",
)
