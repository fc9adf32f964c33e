"""Rerankers: models that read a query and a text together, such as cross-encoders, by name or folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from aisle.bundle.bundle_file import is_bundle
from aisle.errors import ConfigError, ModelError
from aisle.types.rerank_blend import RerankBlend, read_blend

__all__ = [
    "Pair",
    "Reranker",
    "TokenLimit",
    "load_reranker",
    "register_reranker",
    "unregister_reranker",
]

Pair: TypeAlias = tuple[str, str]
"""A query, and a text to score for it."""


@dataclass(frozen=True)
class TokenLimit:
    """The longest pair that a reranker reads whole; it cuts longer ones.

    Args:
        max_length: Most tokens of a pair.
        count: Function that returns the number of tokens of each pair before it is cut.
    """

    max_length: int
    count: Callable[[Sequence[Pair]], Sequence[int]]


@dataclass(frozen=True, eq=False)
class Reranker:
    """A model that scores how relevant a text is to a query.

    `Rerank` scores the hits of an index and may read their columns; a reranker reads texts only, so it also
    scores texts that no index has.

    Args:
        name: Name of the model.
        score: Function that returns a logit for each pair: higher is more relevant, and its sigmoid is a
            probability. It gets the pairs of several requests at once, and threads call it at the same time.
        limit: The longest pair; None if there is no limit.
        blend: Weights of the search's and the model's score, and whether the model helps; None if its run
            did not measure them.
    """

    name: str
    score: Callable[[Sequence[Pair]], Iterable[float]]
    limit: TokenLimit | None = None
    blend: RerankBlend | None = None

    def logits(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
        """Return the (pairs,) float32 logits of pairs.

        Raises:
            ModelError: The model returns too few or too many scores, or a score that is not finite.
        """
        given = np.fromiter(self.score(pairs), np.float32)
        if len(given) != len(pairs) or not np.isfinite(given).all():
            raise ModelError(
                f"reranker {self.name!r}: must return a finite score for each of the {len(pairs)} pairs, "
                f"found {len(given)} scores, {np.count_nonzero(np.isfinite(given))} of them finite"
            )
        return given


_REGISTERED: dict[str, Callable[[], Reranker]] = {}


def register_reranker(name: str, load: Callable[[], Reranker]) -> None:
    """Register a reranker. Its name becomes a value of `--reranker`.

    Args:
        name: The name.
        load: Function that loads the model.

    Raises:
        ValueError: The name is taken.
    """
    if name in _REGISTERED:
        raise ValueError(f"reranker {name!r}: the name is taken; choose another")
    _REGISTERED[name] = load


def unregister_reranker(name: str) -> None:
    """Remove a reranker that `register_reranker` added."""
    del _REGISTERED[name]


def load_reranker(name: str) -> Reranker:
    """Load a registered reranker, or the cross-encoder in a folder or on the Hub.

    Args:
        name: Name of a registered reranker, folder of a run of `aisle train-reranker`, or folder or Hub id of
            another cross-encoder with one score.

    Raises:
        ConfigError: No reranker has the name, and there is no such folder or model on the Hub.
        ModelError: The model in the folder is no reranker, or its files are missing or altered.
        OptionalDependencyError: The extra `encode` is not installed, which a cross-encoder needs.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]()
    folder = Path(name).expanduser()
    why = "there is no such folder"
    if name and (folder.is_dir() or "/" in name):
        try:
            return _from_files(name, folder)
        except ModelError as error:
            why = str(error).removeprefix(f"{name}: ")
            if folder.is_dir():
                raise ModelError(f"--reranker {name}: {why}") from None
    known = ", ".join(sorted(_REGISTERED)) or "none"
    raise ConfigError(
        f"--reranker {name}: must be the folder of a run of `aisle train-reranker`, the folder or Hub id of "
        "another cross-encoder with one score, or be registered with "
        f"aisle.search.rerankers.register_reranker in the program that starts the server; {why}; "
        f"registered: {known}"
    )


def _from_files(name: str, folder: Path) -> Reranker:
    """Load the bundle of a reranker, or a cross-encoder.

    Raises:
        ModelError: It is no reranker, or its files are missing or altered.
        OptionalDependencyError: The extra that the model needs is not installed.
    """
    if is_bundle(name):
        from aisle.bundle.onnx_reranker import load_reranker_bundle

        bundle = load_reranker_bundle(name)
        limit = TokenLimit(bundle.max_length, bundle.tokenizer.pair_lengths)
        return Reranker(name, bundle.score, limit, read_blend(folder, fingerprint=bundle.fingerprint))
    from aisle.models.torch_reranker import load_torch_reranker

    found = load_torch_reranker(name)
    limit = TokenLimit(found.max_length, found.tokenizer.lengths)
    return Reranker(name, found.score, limit, read_blend(folder, fingerprint=found.fingerprint))
