"""Query adapters as torch modules, which start as the identity."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from aisle.index.query_adapter import QueryAdapter
from aisle.types.adapter_options import AdapterOptions

__all__ = ["AdapterModule", "make_module", "trained_adapter"]


class Linear(nn.Module):
    """(I + C) q; C starts at 0, so that weight decay pulls the product towards the identity.

    Args:
        dim: Dimension of embeddings.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros(dim, dim))

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """Return the adapted queries, not normalised: (queries, dim)."""
        return queries + queries @ self.change.T

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights by their names in `QueryAdapter`."""
        return {"weight": torch.eye(len(self.change)) + self.change}


class LowRank(nn.Module):
    """q + U (D q), as in LoRA: U starts at 0 (https://arxiv.org/abs/2106.09685).

    Args:
        dim: Dimension of embeddings.
        rank: Rank of U D.
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, dim) / dim**0.5)
        self.up = nn.Parameter(torch.zeros(dim, rank))

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """Return the adapted queries, not normalised: (queries, dim)."""
        return queries + queries @ self.down.T @ self.up.T

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights by their names in `QueryAdapter`."""
        return {"down": self.down, "up": self.up}


class Mlp(nn.Module):
    """q + O relu(H q + h) + o; O and o start at 0.

    Args:
        dim: Dimension of embeddings.
        size: Size of the hidden layer.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, size)
        self.output = nn.Linear(size, dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """Return the adapted queries, not normalised: (queries, dim)."""
        added: torch.Tensor = self.output(torch.relu(self.hidden(queries)))
        return queries + added

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights by their names in `QueryAdapter`."""
        return {
            "hidden_weight": self.hidden.weight,
            "hidden_bias": self.hidden.bias,
            "output_weight": self.output.weight,
            "output_bias": self.output.bias,
        }


AdapterModule = Linear | LowRank | Mlp


def make_module(options: AdapterOptions, dim: int) -> AdapterModule:
    """Return the module of a kind; random first weights are drawn from torch's generator."""
    if options.kind == "linear":
        return Linear(dim)
    return (LowRank if options.kind == "low_rank" else Mlp)(dim, options.size)


def trained_adapter(module: AdapterModule, options: AdapterOptions) -> QueryAdapter:
    """Return a module as an adapter that needs no torch, with copies of its weights."""
    weights = {
        name: np.array(weight.detach().numpy(), np.float32) for name, weight in module.weights().items()
    }
    assert options.kind != "lora"  # `make_module` makes functions of embeddings only
    return QueryAdapter(options.kind, weights)
