"""`aisle sweep`: search for the settings of a training."""

from __future__ import annotations

from aisle.commands.command import Command
from aisle.commands.sweep.settings import SweepSettings, sweep_problems
from aisle.commands.train.settings import train_inputs


def sweep(settings: SweepSettings) -> None:
    """Search for the settings of a training; see `aisle.commands.sweep.run`."""
    from aisle.commands.sweep import run

    run.sweep(settings)


COMMAND = Command("sweep", SweepSettings, sweep, problems=sweep_problems, inputs=train_inputs, extra="sweep")
