"""`aisle export`: write a model as a bundle that runs without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.export.settings import ExportSettings, export_inputs, export_problems

if TYPE_CHECKING:
    from aisle.bundle.bundle_record import Bundle


def export(settings: ExportSettings) -> Bundle:
    """Write the bundle and return the contents of its bundle.json; see `aisle.commands.export.run`."""
    from aisle.commands.export import run

    return run.export(settings)


COMMAND = Command("export", ExportSettings, export, export_problems, export_inputs, extra="export")
