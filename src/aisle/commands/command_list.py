"""Every command, in the order of the help."""

from __future__ import annotations

from typing import Any

from aisle.commands import (
    average,
    build,
    compact,
    delete,
    evaluate,
    info,
    push,
    query,
    quickstart,
    rollback,
    sample,
    train,
    tune,
    upsert,
    verify,
    versions,
)
from aisle.commands.command import Command

SEARCH: tuple[Command[Any], ...] = (build.COMMAND, query.COMMAND, evaluate.COMMAND)
MAINTAIN: tuple[Command[Any], ...] = (upsert.COMMAND, delete.COMMAND, compact.COMMAND, tune.COMMAND)
INSPECT: tuple[Command[Any], ...] = (versions.COMMAND, rollback.COMMAND, info.COMMAND, verify.COMMAND)
RUNS: tuple[Command[Any], ...] = (sample.COMMAND, quickstart.COMMAND, average.COMMAND, push.COMMAND)

INDEX_SECTIONS = (SEARCH, MAINTAIN, INSPECT)
"""Commands of `infer_index.py`; the help puts a blank line between sections."""
SECTIONS = ((train.COMMAND, *SEARCH), MAINTAIN, INSPECT, RUNS)
"""Commands of `aisle`."""
INDEX_COMMANDS = {command.name: command for section in INDEX_SECTIONS for command in section}
COMMANDS = {command.name: command for section in SECTIONS for command in section}
