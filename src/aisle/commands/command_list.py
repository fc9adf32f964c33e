"""Every command, in the order of the help. A command's module is imported when the command is looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aisle.commands.command import Command

SEARCH = ("build", "query", "answer", "evaluate")
MAINTAIN = ("upsert", "delete", "compact", "tune", "calibrate", "adapt")
INSPECT = ("versions", "rollback", "info", "verify")
SERVICE = ("serve", "publish")
RUNS = ("sample", "quickstart", "heatmap", "average", "merge", "export", "package", "push")

INDEX_SECTIONS = (SEARCH, MAINTAIN, INSPECT)
"""Commands of `infer_index.py`; the help puts a blank line between sections."""
SECTIONS = (("mine", "train", "train-reranker", "sweep", "rag", *SEARCH), MAINTAIN, INSPECT, SERVICE, RUNS)
"""Commands of `aisle`."""


class CommandList(Mapping[str, Command[Any]]):
    """Commands by name. To import all of them takes longer than to print the help of one.

    Args:
        sections: Names of the commands, in the sections of the help.
    """

    def __init__(self, sections: tuple[tuple[str, ...], ...]) -> None:
        self.sections = sections

    def __getitem__(self, name: str) -> Command[Any]:
        if name not in self:
            raise KeyError(name)
        return _command(name)

    def __contains__(self, name: object) -> bool:
        return any(name in section for section in self.sections)

    def __iter__(self) -> Iterator[str]:
        return (name for section in self.sections for name in section)

    def __len__(self) -> int:
        return sum(map(len, self.sections))


def _command(name: str) -> Command[Any]:  # noqa: C901 (a branch for each command)
    """Import a command's module and return the command."""
    match name:
        case "adapt":
            from aisle.commands import adapt

            return adapt.COMMAND
        case "answer":
            from aisle.commands import answer

            return answer.COMMAND
        case "average":
            from aisle.commands import average

            return average.COMMAND
        case "build":
            from aisle.commands import build

            return build.COMMAND
        case "calibrate":
            from aisle.commands import calibrate

            return calibrate.COMMAND
        case "compact":
            from aisle.commands import compact

            return compact.COMMAND
        case "delete":
            from aisle.commands import delete

            return delete.COMMAND
        case "evaluate":
            from aisle.commands import evaluate

            return evaluate.COMMAND
        case "export":
            from aisle.commands import export

            return export.COMMAND
        case "heatmap":
            from aisle.commands import heatmap

            return heatmap.COMMAND
        case "info":
            from aisle.commands import info

            return info.COMMAND
        case "merge":
            from aisle.commands import merge

            return merge.COMMAND
        case "mine":
            from aisle.commands import mine

            return mine.COMMAND
        case "package":
            from aisle.commands import package

            return package.COMMAND
        case "publish":
            from aisle.commands import publish

            return publish.COMMAND
        case "push":
            from aisle.commands import push

            return push.COMMAND
        case "query":
            from aisle.commands import query

            return query.COMMAND
        case "quickstart":
            from aisle.commands import quickstart

            return quickstart.COMMAND
        case "rag":
            from aisle.commands import rag

            return rag.COMMAND
        case "rollback":
            from aisle.commands import rollback

            return rollback.COMMAND
        case "sample":
            from aisle.commands import sample

            return sample.COMMAND
        case "serve":
            from aisle.commands import serve

            return serve.COMMAND
        case "sweep":
            from aisle.commands import sweep

            return sweep.COMMAND
        case "train":
            from aisle.commands import train

            return train.COMMAND
        case "train-reranker":
            from aisle.commands import train_reranker

            return train_reranker.COMMAND
        case "tune":
            from aisle.commands import tune

            return tune.COMMAND
        case "upsert":
            from aisle.commands import upsert

            return upsert.COMMAND
        case "verify":
            from aisle.commands import verify

            return verify.COMMAND
        case "versions":
            from aisle.commands import versions

            return versions.COMMAND
    raise KeyError(name)


INDEX_COMMANDS = CommandList(INDEX_SECTIONS)
COMMANDS = CommandList(SECTIONS)
