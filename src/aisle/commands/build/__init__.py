"""`aisle build`: embed a catalogue and write its index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.commands.build.settings import BuildSettings, build_extra, build_inputs, build_problems
from aisle.commands.command import Command

if TYPE_CHECKING:
    from aisle.index import Manifest


def build(settings: BuildSettings) -> Manifest | None:
    """Embed the catalogue and return the manifest of the index; see `aisle.commands.build.run`."""
    from aisle.commands.build import run

    return run.build(settings)


COMMAND = Command(
    "build", BuildSettings, build, problems=build_problems, inputs=build_inputs, extra=build_extra
)
