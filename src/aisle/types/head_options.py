"""Options of a head to train on top of an encoder."""

from __future__ import annotations

from dataclasses import dataclass

from aisle.types.choices import HeadActivation, HeadKind

MOST_COMPONENTS = 65_536
"""Largest output size of a layer of a head."""
MOST_WEIGHTS = 2**26
"""Most weights of a layer of a head: 256 MiB in float32."""


@dataclass(frozen=True)
class HeadOptions:
    """Options of a head to train.

    Args:
        kind: Kind of the head; none adds no head.
        sizes: Output sizes of the layers of `linear`, `mlp` and `stacked_projection`; None for the encoder's
            dimension.
        expansion: Size of the middle layer of `widening`, as a multiple of the dimension.
        activation: Activation between layers.
        dropout: Dropout probability on the encoder's embeddings before the head.
        skip_dropout: Dropout probability before the layer of `skip_connection`, not on its shortcut.
    """

    kind: HeadKind
    sizes: tuple[int, ...] | None = None
    expansion: float = 4.0
    activation: HeadActivation = "relu"
    dropout: float = 0.0
    skip_dropout: float = 0.0
