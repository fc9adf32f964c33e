"""Settings of `train` for a head on top of the encoder, and for a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval
from pydantic import Field

from aisle.types.choices import HeadActivation, HeadKind
from aisle.types.head_options import MOST_COMPONENTS, HeadOptions

READ_BY: dict[str, tuple[HeadKind, ...]] = {
    "head_sizes": ("linear", "mlp", "stacked_projection"),
    "head_expansion": ("widening",),
    "head_activation": ("widening", "stacked_projection", "mlp"),
    "head_dropout": ("skip_connection", "gated", "widening", "stacked_projection", "linear", "mlp"),
    "head_skip_dropout": ("skip_connection",),
}
"""Kinds of heads that read each option."""
STARTS_AS_IDENTITY: tuple[HeadKind, ...] = ("skip_connection", "gated", "linear")
"""Heads whose first embeddings are the encoder's, if they keep its dimension."""


@dataclass(frozen=True)
class HeadSettings:
    """A head on top of the encoder's embeddings: with a frozen encoder, with LoRA, or with all weights."""

    head: HeadKind = "none"
    """Layers to add and train. They take and return embeddings of unit norm.
    skip_connection: x + sigmoid(gate) (W x + b); starts as the identity.
    gated: x tanh(gate), one number per component; starts as the identity.
    widening: a layer of --head_expansion times the dimension, an activation, and a layer back.
    stacked_projection: layers of --head_sizes, with an activation between them.
    linear: W x + b; starts as the identity if it keeps the dimension.
    mlp: two layers with an activation between them."""
    freeze_encoder: bool = False
    """Train only the head; the encoder keeps its weights and computes without dropout."""
    head_sizes: tuple[Annotated[int, Interval(ge=1, le=MOST_COMPONENTS)], ...] | None = None
    """Output sizes of the layers: of stacked_projection (required), of both layers of mlp, or of linear.
    If not given: the encoder's dimension."""
    head_expansion: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    """Size of the middle layer of widening, as a multiple of the dimension."""
    head_activation: HeadActivation = "relu"
    """Activation between the layers of widening, stacked_projection and mlp."""
    head_dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Dropout probability on the encoder's embeddings before the head."""
    head_skip_dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Dropout probability before the layer of skip_connection, not on its shortcut."""

    embedding_cache: str | None = None
    """Folder to keep the vectors of a frozen encoder in, for this run and others at the same time or later:
    each text is encoded once. If not given: a folder that is removed at the end of the run."""

    def options(self) -> HeadOptions | None:
        """Return the options of the head to add; None without a head."""
        if self.head == "none":
            return None
        return HeadOptions(
            kind=self.head,
            sizes=self.head_sizes,
            expansion=self.head_expansion,
            activation=self.head_activation,
            dropout=self.head_dropout,
            skip_dropout=self.head_skip_dropout,
        )


def head_problems(settings: HeadSettings, *, use_peft: bool) -> Iterator[str]:
    """Yield a message for each combination of a head's settings that cannot work.

    Args:
        settings: Settings of the head.
        use_peft: Whether a LoRA adapter is trained.
    """
    if settings.freeze_encoder and use_peft:
        yield (
            "--freeze_encoder and --use_peft: a LoRA adapter changes the encoder, and a frozen encoder does "
            "not change; give one of them"
        )
    if settings.freeze_encoder and settings.head == "none":
        yield (
            "--freeze_encoder: there is nothing to train without a head; give --head, for example --head "
            "skip_connection"
        )
    if settings.embedding_cache is not None and not settings.freeze_encoder:
        yield "--embedding_cache: only the vectors of a frozen encoder stay the same; give --freeze_encoder"
    usual = HeadSettings()
    for name, kinds in READ_BY.items():
        value = getattr(settings, name)
        if value != getattr(usual, name) and settings.head not in kinds:
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            yield f"--{name} {shown}: --head {settings.head} does not use it; {_listed(kinds)}"
    yield from _size_problems(settings)


def _listed(kinds: tuple[HeadKind, ...]) -> str:
    if len(kinds) == 1:
        return f"--head {kinds[0]} does"
    return f"--head {', '.join(kinds[:-1])} and {kinds[-1]} do"


def _size_problems(settings: HeadSettings) -> Iterator[str]:
    head, sizes = settings.head, settings.head_sizes
    if head == "stacked_projection" and not sizes:
        yield "--head stacked_projection: needs the output sizes of its layers; give --head_sizes"
    wanted = {"linear": 1, "mlp": 2}.get(head)
    if wanted is not None and sizes is not None and len(sizes) != wanted:
        yield (
            f"--head_sizes {' '.join(map(str, sizes))}: --head {head} has {wanted} "
            f"{'layer' if wanted == 1 else 'layers'}; give {wanted} "
            f"{'size' if wanted == 1 else 'sizes'}, or leave the flag out"
        )
