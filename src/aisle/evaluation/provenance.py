"""Provenance of an evaluation: command, settings, versions and input files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["InputFile", "Provenance"]


@dataclass(frozen=True)
class InputFile:
    """A file behind the figures."""

    role: str
    """"queries", "judgements", "pairs", "index" and so on."""
    path: str
    size: int
    """Size in bytes."""
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """Command, settings, versions and inputs behind the figures."""

    command: str
    date: str
    """Date in UTC, ISO 8601."""
    seed: int
    resamples: int
    versions: Mapping[str, str]
    """"aisle", "python", "torch", "transformers" and so on."""
    configuration: Mapping[str, Any]
    """The resolved settings."""
    inputs: tuple[InputFile, ...]
