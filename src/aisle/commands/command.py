"""A command: the dataclass of its settings, its checks, and the function that does the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from aisle.errors import ConfigError
from aisle.extras import require_extra

Settings = TypeVar("Settings")


def no_problems(_settings: object) -> list[str]:
    """Accept every combination of settings."""
    return []


def as_given(arguments: Sequence[str]) -> Sequence[str]:
    """Return the arguments of a command unchanged."""
    return arguments


def no_inputs(_settings: object) -> None:
    """Check no file or folder before the command runs."""


@dataclass(frozen=True)
class Command(Generic[Settings]):
    """A command of the command line.

    Its module is imported for `--help`, so it imports torch, numpy, pyarrow and the like inside its
    functions only.

    Args:
        name: Name of the command, as typed after `aisle`.
        settings: Dataclass of its settings; each field is a flag, and its docstring is the help.
        run: Function that does the work.
        problems: Function that returns a message for each combination of settings that cannot work.
        inputs: Function that raises if a file or folder that the settings name is missing.
        extra: Extra that the command needs, see `aisle.extras`; or a function that returns it.
        arguments: Function that returns the arguments to parse, for arguments that the environment adds.
    """

    name: str
    settings: type[Settings]
    run: Callable[[Settings], object]
    problems: Callable[[Settings], Sequence[str]] = no_problems
    inputs: Callable[[Settings], None] = no_inputs
    extra: str | Callable[[Settings], str] | None = None
    arguments: Callable[[Sequence[str]], Sequence[str]] = as_given

    @property
    def summary(self) -> str:
        """The line for the list of commands: the first line of the settings' docstring."""
        return (self.settings.__doc__ or "").partition("\n")[0].rstrip(".")

    def check(self, settings: Settings) -> None:
        """Refuse settings that cannot work, before anything heavy is imported.

        Raises:
            ConfigError: Settings cannot be combined; every problem is named.
            AisleError: An extra is not installed, or a file or folder that the settings name is missing.
        """
        problems = self.problems(settings)
        if problems:
            raise ConfigError("\n".join(problems))
        if self.extra is not None:
            require_extra(self.extra(settings) if callable(self.extra) else self.extra)
        self.inputs(settings)
