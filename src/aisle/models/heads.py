"""Heads: the modules of a tower after the pooling, from embeddings to embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.dense import Dense
from aisle.models.modules_file import MODULES_FILE, listed_modules


@runtime_checkable
class Head(Protocol):
    """A kind of module after the pooling; a `torch.nn.Module` that takes and returns (texts, dim)."""

    kind: str
    """Name of its class in sentence-transformers' modules.json."""

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Return the module in a folder.

        Raises:
            ModelError: A file is missing or damaged, or asks for something that aisle does not have.
        """

    def save(self, folder: Path) -> None:
        """Write the module's files."""

    def output_dim(self, dim: int) -> int:
        """Return the length of an embedding after the module.

        Raises:
            ModelError: The module does not take embeddings of this length.
        """

    def fingerprint_part(self) -> dict[str, Any]:
        """Return what decides the module's output, as JSON: settings and hashes of weights."""

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the changed embeddings: (texts, dim after)."""


class Normalize(nn.Module):
    """Scale embeddings to unit L2 norm."""

    kind = "Normalize"

    @classmethod
    def load(cls, folder: Path) -> Normalize:
        """Return the module; it has no files."""
        return cls()

    def save(self, folder: Path) -> None:
        """Write nothing: the module has no settings and no weights."""

    def output_dim(self, dim: int) -> int:
        """Return `dim`: the length stays."""
        return dim

    def fingerprint_part(self) -> dict[str, Any]:
        """Return nothing: there are no settings and no weights."""
        return {}

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the embeddings at unit L2 norm: (texts, dim)."""
        return nn.functional.normalize(embeddings, dim=1)


HEADS: dict[str, type[Head]] = {head.kind: head for head in (Dense, Normalize)}
"""Kind of head -> its class. A new kind is a module of its own and an entry here."""
BEFORE_HEADS = ("Transformer", "Pooling")


def load_heads(model_dir: Path, *, dim: int) -> tuple[Head, ...]:
    """Return the heads that a model's modules.json lists, without a normalisation at the end.

    Whether embeddings are normalised at the end is a setting of the encoder.

    Args:
        model_dir: Folder of the model.
        dim: Length of the pooled embeddings.

    Raises:
        ModelError: A file is damaged; or aisle does not have one of the modules, or not in this place.
    """
    check_modules(model_dir)
    heads: list[Head] = []
    for module in listed_modules(model_dir):
        if module.kind in HEADS:
            head = HEADS[module.kind].load(module.folder)
            try:
                dim = head.output_dim(dim)
            except ModelError as error:
                raise ModelError(f"{module.folder}: {error}; the model's files do not fit together") from None
            heads.append(head)
    return tuple(heads[:-1] if heads and isinstance(heads[-1], Normalize) else heads)


def check_modules(model_dir: Path) -> None:
    """Refuse a modules.json with modules that aisle does not have, or not in this order.

    Raises:
        ModelError: As said, or the file is damaged.
    """
    path = model_dir / MODULES_FILE
    modules = listed_modules(model_dir)
    known = (*BEFORE_HEADS, *HEADS)
    unknown = [module.type for module in modules if module.kind not in known]
    if unknown:
        raise ModelError(
            f"{path}: the model has {', '.join(unknown)}, which aisle does not have; its embeddings would be "
            f"others. aisle has {', '.join(known)}"
        )
    kinds = [module.kind for module in modules]
    has_heads = bool(set(kinds) & set(HEADS))
    first = [kind for kind in BEFORE_HEADS if has_heads or kind in kinds]
    if kinds[: len(first)] != first or set(kinds[len(first) :]) & set(BEFORE_HEADS):
        raise ModelError(
            f"{path}: lists {', '.join(kinds)}; aisle reads one Transformer, then one Pooling, then any "
            f"number of {' and '.join(HEADS)}"
        )


def head_folder(number: int, head: Head) -> str:
    """Return the folder of a tower's head, as sentence-transformers names it.

    Args:
        number: Place of the head among the tower's heads, from 0.
        head: The head.
    """
    return f"{len(BEFORE_HEADS) + number}_{head.kind}"


def output_dim(heads: Iterable[Head], dim: int) -> int:
    """Return the length of an embedding after heads that take embeddings of `dim` components.

    Raises:
        ModelError: A head does not take embeddings of the length before it.
    """
    for head in heads:
        dim = head.output_dim(dim)
    return dim


def fingerprint_parts(heads: Sequence[Head]) -> list[dict[str, Any]]:
    """Return what the heads add to a fingerprint, as JSON."""
    return [{"kind": head.kind, **head.fingerprint_part()} for head in heads]
