"""Heads to train on top of an encoder, which are saved as Dense layers of sentence-transformers.

The definitions and defaults are those of Quaterion (https://github.com/qdrant/quaterion-models, `heads`). Its
skip connection and gates multiply by functions of trained numbers. After training these are constants, so
that each head equals one Dense layer, or a few with an activation between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.dense import Dense
from aisle.models.heads import Head, HeadDropout
from aisle.types.choices import HeadActivation, HeadKind
from aisle.types.head_options import MOST_COMPONENTS, MOST_WEIGHTS, HeadOptions

CLOSED_GATE = -4.0
"""First value of the gates of a skip connection: sigmoid(-4) = .018."""
OPEN_GATE = 2.0
"""First value of the gates of `Gated`: tanh(2) = .964."""
ACTIVATION_LAYERS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh"}


class SkipConnection(nn.Module):
    """Add a gated linear layer to embeddings: x + sigmoid(g) * (W x + b), with a gate per component.

    W and b start at 0, so that the head starts as the identity. Quaterion draws them at random, which moves
    the first embeddings by about 1%.

    Args:
        dim: Dimension of the embeddings.
        skip_dropout: Dropout probability before the layer.
    """

    def __init__(self, dim: int, *, skip_dropout: float = 0.0) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.full((dim,), CLOSED_GATE))
        self.linear = nn.Linear(dim, dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.skip_dropout = nn.Dropout(skip_dropout)

    def output_dim(self, dim: int) -> int:
        """Return `dim`: the dimension does not change."""
        return _unchanged(self.gates, dim)

    def saved_as(self) -> tuple[Dense, ...]:
        """Return a layer with the weights I + diag(sigmoid(g)) W and the bias sigmoid(g) b."""
        gates = torch.sigmoid(self.gates.detach().double())
        weight = torch.diag(torch.ones_like(gates)) + gates[:, None] * self.linear.weight.detach().double()
        return (_dense(weight, gates * self.linear.bias.detach().double()),)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the embeddings with the layer's output added: (texts, dim)."""
        added: torch.Tensor = self.linear(self.skip_dropout(embeddings))
        return embeddings + torch.sigmoid(self.gates) * added


class Gated(nn.Module):
    """Scale each component of embeddings: x * tanh(g).

    All gates start equal, so that after the normalisation the head starts as the identity.

    Args:
        dim: Dimension of the embeddings.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.full((dim,), OPEN_GATE))

    def output_dim(self, dim: int) -> int:
        """Return `dim`: the dimension does not change."""
        return _unchanged(self.gates, dim)

    def saved_as(self) -> tuple[Dense, ...]:
        """Return a layer without bias whose weights are tanh(g) on the diagonal, and 0 elsewhere."""
        return (_dense(torch.diag(torch.tanh(self.gates.detach().double())), None),)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the scaled embeddings: (texts, dim)."""
        return embeddings * torch.tanh(self.gates)


def make_head(options: HeadOptions, dim: int) -> list[Head]:
    """Return the modules of a head, in order; random first weights are drawn from torch's generator.

    Args:
        options: Options of the head, of any kind but none.
        dim: Dimension of the encoder's embeddings.

    Raises:
        ModelError: The middle layer of `widening`, or the number of weights of a layer, is too large.
    """
    dropout: list[Head] = [HeadDropout(options.dropout)] if options.dropout else []
    return [*dropout, *MAKERS[options.kind](options, dim)]


def _skip_connection(options: HeadOptions, dim: int) -> list[Head]:
    return [SkipConnection(dim, skip_dropout=options.skip_dropout)]


def _gated(options: HeadOptions, dim: int) -> list[Head]:
    return [Gated(dim)]


def _widening(options: HeadOptions, dim: int) -> list[Head]:
    middle = max(int(dim * options.expansion), 1)
    if middle > MOST_COMPONENTS:
        raise ModelError(
            f"--head_expansion {options.expansion:g}: the middle layer of --head widening has {middle:,} "
            f"components for embeddings of {dim:,}, and a layer can have {MOST_COMPONENTS:,}; give at most "
            f"{MOST_COMPONENTS / dim:g}"
        )
    return _stack([dim, middle, dim], options.activation)


def _stacked_projection(options: HeadOptions, dim: int) -> list[Head]:
    return _stack([dim, *(options.sizes or (dim,))], options.activation)


def _linear(options: HeadOptions, dim: int) -> list[Head]:
    size = (options.sizes or (dim,))[0]
    _check_weights(dim, size)
    layer = Dense(dim, size, bias=True, activation="Identity")
    if layer.out_features == dim:
        nn.init.eye_(layer.linear.weight)
        nn.init.zeros_(layer.linear.bias)
    return [layer]


def _mlp(options: HeadOptions, dim: int) -> list[Head]:
    return _stack([dim, *(options.sizes or (dim, dim))], options.activation)


MAKERS: dict[HeadKind, Callable[[HeadOptions, int], list[Head]]] = {
    "skip_connection": _skip_connection,
    "gated": _gated,
    "widening": _widening,
    "stacked_projection": _stacked_projection,
    "linear": _linear,
    "mlp": _mlp,
}
"""Functions that make the modules of a head, by its kind."""


def _stack(sizes: Sequence[int], activation: HeadActivation) -> list[Head]:
    """Return linear layers with an activation after all but the last.

    Raises:
        ModelError: A layer has too many weights.
    """
    for size, to in pairwise(sizes):
        _check_weights(size, to)
    last = len(sizes) - 2
    return [
        Dense(size, to, bias=True, activation="Identity" if number == last else ACTIVATION_LAYERS[activation])
        for number, (size, to) in enumerate(pairwise(sizes))
    ]


def _check_weights(size: int, to: int) -> None:
    """Refuse a layer with too many weights.

    Raises:
        ModelError: It has.
    """
    if size * to > MOST_WEIGHTS:
        raise ModelError(
            f"--head: a layer from {size:,} to {to:,} components has {size * to:,} weights, and a layer of a "
            f"head can have {MOST_WEIGHTS:,}; give lower --head_sizes or --head_expansion"
        )


def _dense(weight: torch.Tensor, bias: torch.Tensor | None) -> Dense:
    """Return a linear layer with the given weights, in float32 on the CPU."""
    layer = Dense(weight.shape[1], weight.shape[0], bias=bias is not None, activation="Identity")
    with torch.no_grad():
        layer.linear.weight.copy_(weight)
        if bias is not None:
            layer.linear.bias.copy_(bias)
    return layer


def _unchanged(gates: torch.Tensor, dim: int) -> int:
    if dim != len(gates):
        raise ModelError(f"the head takes embeddings of {len(gates)} components, but its input has {dim}")
    return dim
