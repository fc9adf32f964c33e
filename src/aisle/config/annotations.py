"""Annotations of settings that need neither tyro nor pydantic, whose imports take 0.2 s together.

Limits of numbers are `annotated_types.Interval`, which pydantic knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

__all__ = ["POSITIONAL", "REQUIRED", "Help", "Positional", "Required"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Help:
    """Help of a setting, for settings of several commands; otherwise the docstring below the field."""

    help: str


@dataclass(frozen=True)
class _Positional:
    """Mark of a setting that is typed without a flag."""


POSITIONAL = _Positional()
Positional = Annotated[Value, POSITIONAL]


@dataclass(frozen=True)
class _Required:
    """Mark of a setting whose default is empty and refused later, with a message of its own."""


REQUIRED = _Required()
Required = Annotated[Value, REQUIRED]
