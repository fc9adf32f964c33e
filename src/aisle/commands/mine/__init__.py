"""`aisle mine`: find hard negatives for training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.mine.settings import MineSettings, mine_inputs, mine_problems

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["COMMAND"]


def mine(settings: MineSettings) -> Path:
    """Run the command; what it imports takes seconds."""
    from aisle.commands.mine.run import mine as run

    return run(settings)


COMMAND = Command("mine", MineSettings, mine, problems=mine_problems, inputs=mine_inputs, extra="train")
