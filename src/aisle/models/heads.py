"""Heads: modules of a tower after the pooling, which take and return embeddings."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.dense import Dense
from aisle.models.modules_file import MODULES_FILE, listed_modules


@runtime_checkable
class Head(Protocol):
    """Module after the pooling: a `torch.nn.Module` that takes and returns (texts, dim)."""

    def output_dim(self, dim: int) -> int:
        """Return the dimension of the module's output.

        Raises:
            ModelError: The module does not take embeddings of this dimension.
        """

    def saved_as(self) -> Sequence[SavedHead]:
        """Return the modules to save in its place, which compute the same in evaluation mode."""

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the module's output: (texts, output dim)."""


@runtime_checkable
class SavedHead(Head, Protocol):
    """Head that sentence-transformers has too, with files in a folder of the model."""

    kind: str
    """Name of the class in sentence-transformers' modules.json."""

    @classmethod
    def load(cls, folder: Path) -> SavedHead:
        """Load the module from a folder.

        Raises:
            ModelError: A file is missing or damaged, or contains a setting that aisle does not support.
        """

    def save(self, folder: Path) -> None:
        """Write the module's files to a folder."""

    def fingerprint_part(self) -> dict[str, Any]:
        """Return the module's share of the fingerprint, as JSON: settings and hashes of weights."""


class Normalize(nn.Module):
    """Scale embeddings to unit L2 norm."""

    kind = "Normalize"
    few_operations = False
    """Whether the gradient is computed by `UnitNorm`, which takes half the time and rounds differently."""

    @classmethod
    def load(cls, folder: Path) -> Normalize:
        """Return the module; it has no files."""
        return cls()

    def save(self, folder: Path) -> None:
        """Write nothing: the module has no settings and no weights."""

    def output_dim(self, dim: int) -> int:
        """Return `dim`: the dimension does not change."""
        return dim

    def saved_as(self) -> tuple[Normalize, ...]:
        """Return the module itself."""
        return (self,)

    def fingerprint_part(self) -> dict[str, Any]:
        """Return an empty dict: the module has no settings and no weights."""
        return {}

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the embeddings, scaled to unit L2 norm: (texts, dim)."""
        if self.few_operations:
            scaled: torch.Tensor = UnitNorm.apply(embeddings)  # type: ignore[no-untyped-call]
            return scaled
        return nn.functional.normalize(embeddings, dim=1)


class UnitNorm(torch.autograd.Function):
    """Scale rows x to unit L2 norm, e = x / |x|; the gradient is (g - (g e) e) / |x|."""

    @staticmethod
    def forward(ctx: Any, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the rows of (texts, dim), scaled as `torch.nn.functional.normalize` scales them."""
        norms = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True).clamp_min_(1e-12)
        scaled: torch.Tensor = embeddings / norms
        ctx.save_for_backward(scaled, norms)
        return scaled

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        """Return the gradient with respect to the rows, given that of the scaled rows."""
        (gradient,) = gradients
        scaled, norms = ctx.saved_tensors
        along = (gradient * scaled).sum(dim=1, keepdim=True)
        return torch.addcmul(gradient, scaled, along, value=-1).div_(norms)


class HeadDropout(nn.Module):
    """Drop components of embeddings, during training only.

    Args:
        probability: Dropout probability.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(probability)

    def output_dim(self, dim: int) -> int:
        """Return `dim`: the dimension does not change."""
        return dim

    def saved_as(self) -> tuple[SavedHead, ...]:
        """Return nothing: after training the module does nothing."""
        return ()

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the embeddings, with components dropped in training mode: (texts, dim)."""
        dropped: torch.Tensor = self.dropout(embeddings)
        return dropped


HEADS: dict[str, type[SavedHead]] = {head.kind: head for head in (Dense, Normalize)}
"""Classes of saved heads by their kind. To add a head, write its module and add its class here."""
BEFORE_HEADS = ("Transformer", "Pooling")


def load_heads(model_dir: Path, *, dim: int) -> tuple[SavedHead, ...]:
    """Load the heads that a model's modules.json lists, without a normalisation at the end.

    A setting of the encoder controls the normalisation at the end.

    Args:
        model_dir: Folder of the model.
        dim: Dimension of the pooled embeddings.

    Raises:
        ModelError: A file is damaged, or aisle does not support a module or the order of the modules.
    """
    check_modules(model_dir)
    heads: list[SavedHead] = []
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
    """Refuse a modules.json if aisle does not support its modules or their order.

    Raises:
        ModelError: aisle does not support them, or the file is damaged.
    """
    path = model_dir / MODULES_FILE
    modules = listed_modules(model_dir)
    known = (*BEFORE_HEADS, *HEADS)
    unknown = [module.type for module in modules if module.kind not in known]
    if unknown:
        raise ModelError(
            f"{path}: the model has {', '.join(unknown)}, which aisle does not support; without it the "
            f"embeddings would differ. aisle supports {', '.join(known)}"
        )
    kinds = [module.kind for module in modules]
    has_heads = bool(set(kinds) & set(HEADS))
    first = [kind for kind in BEFORE_HEADS if has_heads or kind in kinds]
    if kinds[: len(first)] != first or set(kinds[len(first) :]) & set(BEFORE_HEADS):
        raise ModelError(
            f"{path}: lists {', '.join(kinds)}; aisle reads one Transformer, then one Pooling, then any "
            f"number of {' and '.join(HEADS)}"
        )


def head_folder(number: int, head: SavedHead) -> str:
    """Return the name of a head's folder, as in sentence-transformers.

    Args:
        number: Index of the head among the saved heads.
        head: The head.
    """
    return f"{len(BEFORE_HEADS) + number}_{head.kind}"


def output_dim(heads: Iterable[Head], dim: int) -> int:
    """Return the dimension of the embeddings after all heads, given the dimension `dim` before them.

    Raises:
        ModelError: A head does not take embeddings of the dimension before it.
    """
    for head in heads:
        dim = head.output_dim(dim)
    return dim


def fingerprint_parts(heads: Sequence[SavedHead]) -> list[dict[str, Any]]:
    """Return the heads' share of the fingerprint, as JSON."""
    return [{"kind": head.kind, **head.fingerprint_part()} for head in heads]


def heads_to_save(heads: Iterable[Head], weights: Mapping[str, torch.Tensor]) -> list[SavedHead]:
    """Return a tower's heads in the form in which they are saved; the tower's own heads do not change.

    Args:
        heads: Heads of the tower, in order.
        weights: Weights to save in place of the heads' own, by their names in `heads`, such as
            `0.linear.weight`.
    """
    saved: list[SavedHead] = []
    for number, trained in enumerate(heads):
        head: Any = copy.deepcopy(trained)
        prefix = f"{number}."
        own = {name.removeprefix(prefix): one for name, one in weights.items() if name.startswith(prefix)}
        head.load_state_dict({**head.state_dict(), **own})
        saved.extend(head.saved_as())
    return saved
