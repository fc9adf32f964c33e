"""How the figures of an evaluation were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["InputFile", "Provenance"]


@dataclass(frozen=True)
class InputFile:
    """A file that the figures come from."""

    role: str
    """"queries", "judgements", "pairs", "index" and so on."""
    path: str
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """How the figures were made."""

    command: str
    date: str
    """UTC, ISO 8601."""
    seed: int
    resamples: int
    versions: Mapping[str, str]
    """"aisle", "python", "torch", "transformers" and so on."""
    configuration: Mapping[str, Any]
    """The resolved settings."""
    inputs: tuple[InputFile, ...]
