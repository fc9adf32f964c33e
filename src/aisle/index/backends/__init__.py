"""Graph backends by name; the builder and the reader of an index choose from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aisle.errors import ConfigError
from aisle.index.backends.exact import ExactBackend
from aisle.index.backends.graph_backend import GraphBackend, NodeVectors
from aisle.index.backends.hnsw import HnswBackend

__all__ = [
    "DEFAULT_BACKEND",
    "GraphBackend",
    "NodeVectors",
    "backend_named",
    "backend_names",
    "effort_problem",
    "has_efforts",
    "make_parameters",
    "register_backend",
]

DEFAULT_BACKEND = HnswBackend.name

_BACKENDS: dict[str, type[GraphBackend]] = {}


def register_backend(backend: type[GraphBackend]) -> type[GraphBackend]:
    """Register a backend under its name; also usable as a class decorator."""
    _BACKENDS[backend.name] = backend
    return backend


register_backend(HnswBackend)
register_backend(ExactBackend)


def backend_names() -> tuple[str, ...]:
    """Return the names of all backends, the default first."""
    return tuple(_BACKENDS)


def backend_named(name: str) -> type[GraphBackend]:
    """Return a backend.

    Raises:
        ConfigError: No backend has that name.
    """
    if name not in _BACKENDS:
        raise ConfigError(f"backend: must be one of {', '.join(_BACKENDS)}, found {name!r}")
    return _BACKENDS[name]


def make_parameters(backend: type[GraphBackend], given: Mapping[str, object]) -> Any:
    """Return a backend's parameters: the given values, and defaults for the others.

    Raises:
        ConfigError: A parameter is unknown, of the wrong type or out of range; the message names every error.
    """
    defaults = asdict(backend.Parameters())
    has = f"it has {', '.join(defaults)}" if defaults else "it has none"
    problems = []
    for name, value in given.items():
        if name not in defaults:
            problems.append(f"{name}: backend {backend.name!r} has no such parameter; {has}")
        elif type(value) is not type(defaults[name]):
            problems.append(f"{name} must be {type(defaults[name]).__name__}, found {value!r}")
    if not problems:
        parameters = backend.Parameters(**given)
        problems = parameters.problems()
    if problems:
        raise ConfigError("; ".join(problems))
    return parameters


def has_efforts(backend: type[GraphBackend]) -> bool:
    """Return whether a backend has search efforts to choose from: for hnswlib, values of `ef_search`."""
    return len(backend.efforts) > 1


def effort_problem(backend: type[GraphBackend], ef_search: int | None) -> str | None:
    """Return why an `ef_search` cannot be set, or None if it can or none is given."""
    if ef_search is None or has_efforts(backend) or ef_search in backend.efforts:
        return None
    return f"ef_search: backend {backend.name!r} has nothing to tune, found {ef_search}; leave it out"
