"""`aisle upsert`: add products to an index, and replace changed products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.upsert.settings import UpsertSettings, upsert_extra, upsert_inputs

if TYPE_CHECKING:
    from aisle.index import Manifest


def upsert(settings: UpsertSettings) -> Manifest:
    """Add and replace products and return the current manifest; see `aisle.commands.upsert.run`."""
    from aisle.commands.upsert import run

    return run.upsert(settings)


COMMAND = Command("upsert", UpsertSettings, upsert, inputs=upsert_inputs, extra=upsert_extra)
