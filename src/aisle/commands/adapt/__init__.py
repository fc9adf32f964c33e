"""`aisle adapt`: train a query adapter for an index, without embedding its products again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.commands.adapt.settings import AdaptSettings, adapt_inputs, adapt_problems
from aisle.commands.command import Command

if TYPE_CHECKING:
    from aisle.index import Manifest


def adapt(settings: AdaptSettings) -> Manifest:
    """Train an adapter, publish it if it gains, and return the manifest; see `aisle.commands.adapt.run`."""
    from aisle.commands.adapt import run

    return run.adapt(settings)


COMMAND = Command("adapt", AdaptSettings, adapt, problems=adapt_problems, inputs=adapt_inputs, extra="train")
