"""Settings of a build: the graph, and the encoder and template behind the embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aisle.errors import ConfigError
from aisle.index.backends import DEFAULT_BACKEND, backend_named, effort_problem, make_parameters
from aisle.types.choices import StoreDtype

__all__ = ["GraphSettings", "IndexIdentity"]


@dataclass(frozen=True)
class GraphSettings:
    """Settings of the graph: how it is built and searched.

    Args:
        backend: Name of the graph backend: "hnsw", "exact", or one that was registered.
        parameters: Parameters of the backend, such as `M` and `ef_construction` of "hnsw"; missing ones get
            their defaults.
        ef_search: Search effort, for "hnsw" the candidates kept; None chooses it by `target_recall`.
        target_recall: Smallest recall@10 that `ef_search` must reach; 0.98 if neither is given.
        threads: Threads that build the graph; None is one per core, 1 makes builds repeatable.

    Raises:
        ConfigError: The backend or a parameter is unknown, or a setting is out of range.
    """

    backend: str = DEFAULT_BACKEND
    parameters: Mapping[str, object] = field(default_factory=dict)
    ef_search: int | None = None
    target_recall: float | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        chosen = backend_named(self.backend)
        wrong = []
        try:
            make_parameters(chosen, self.parameters)
        except ConfigError as error:
            wrong.append(str(error))
        lowest = {
            "ef_search": (1 if self.ef_search is None else self.ef_search, 1),
            "threads": (1 if self.threads is None else self.threads, 1),
        }
        wrong += [
            f"{name} must be at least {low}, found {value}"
            for name, (value, low) in lowest.items()
            if value < low
        ]
        problem = effort_problem(chosen, self.ef_search)
        if problem is not None:
            wrong.append(problem)
        if self.target_recall is not None and not 0 <= self.target_recall <= 1:
            wrong.append(f"target_recall must be from 0 to 1, found {self.target_recall}")
        if self.target_recall is not None and self.ef_search is not None:
            wrong.append("ef_search and target_recall: give one of them; the recall decides ef_search")
        if wrong:
            raise ConfigError(f"index settings: {'; '.join(wrong)}")


@dataclass(frozen=True)
class IndexIdentity:
    """Encoder and template of an index.

    Args:
        dim: Components of an embedding.
        fingerprint: Fingerprint of the encoder that makes the embeddings.
        encoder: Source of the encoder, as JSON, to load it again.
        text_template: Template that turned a catalogue row into text; None if texts were given directly.
        id_column: Column of product ids in the catalogue; None if ids were given directly.
        store_dtype: Number type of the stored embeddings; "float16" halves them and rounds scores to about 3
        digits.
        query_fingerprint: Fingerprint of the query tower; None if one tower reads both sides.

    Raises:
        ConfigError: `encoder` is not JSON, or `dim` is below 1.
    """

    dim: int
    fingerprint: str
    encoder: Mapping[str, Any]
    text_template: str | None = None
    id_column: str | None = None
    store_dtype: StoreDtype = "float32"
    query_fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"index settings: dim must be at least 1, found {self.dim}")
        try:
            json.dumps(dict(self.encoder), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"encoder: must be JSON to be kept in the manifest: {error}") from None
