"""Exact search as a backend: nothing is built; a search compares every query with every product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from aisle.index.backends.graph_backend import Found, NodeVectors
from aisle.index.scoring import Rows, Scores

__all__ = ["ExactBackend", "ExactParameters"]


@dataclass(frozen=True)
class ExactParameters:
    """Exact search has no build parameters."""

    def problems(self) -> list[str]:
        """Return an empty list: there is nothing to check."""
        return []


class ExactBackend:
    """Backend without a structure: all queries go to the exact scan of the stored embeddings.

    The scan reads rows in their order on disk and needs no additional memory; a search over node vectors
    would have to gather them first.
    """

    name: ClassVar[str] = "exact"
    files: ClassVar[tuple[str, ...]] = ()
    Parameters: ClassVar[type[ExactParameters]] = ExactParameters
    efforts: ClassVar[tuple[int, ...]] = (1,)

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes

    @classmethod
    def build(
        cls,
        vectors: NodeVectors,
        parameters: ExactParameters,
        *,
        threads: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> ExactBackend:
        """Return exact search over the nodes."""
        if on_progress is not None:
            on_progress(len(vectors.embeddings))
        return cls(len(vectors))

    @classmethod
    def load(cls, folder: Path, vectors: NodeVectors, parameters: ExactParameters) -> ExactBackend:
        """Return exact search over the nodes; there is no file to read."""
        return cls(len(vectors))

    def save(self, folder: Path) -> None:
        """Do nothing: there is nothing to save."""

    def search(self, queries: Scores, *, nodes: int, effort: int, threads: int | None) -> Found:
        """Leave all queries unanswered, so all are searched exactly."""
        return np.empty((0, nodes), np.int64), np.empty((0, nodes), np.float32), np.zeros(len(queries), bool)

    def add(self, vectors: NodeVectors, *, threads: int | None = None) -> None:
        """Count the new nodes."""
        self._nodes = len(vectors)

    def remove(self, nodes: Rows) -> None:
        """Do nothing: the stored embeddings no longer have the rows of removed nodes."""

    def __len__(self) -> int:
        return self._nodes
