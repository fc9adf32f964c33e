"""A query adapter as Dense layers of sentence-transformers, for a tower that has it built in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from aisle.index.query_adapter import QueryAdapter
from aisle.models.dense import Dense

__all__ = ["adapter_layers"]


def adapter_layers(adapter: QueryAdapter) -> list[Dense]:
    """Return layers that compute the adapter, before its normalisation.

    linear and low_rank are a single matrix. The shortcut of mlp passes through the hidden layer as
    q = relu(q) - relu(-q), because sentence-transformers has no layer with a shortcut in all its versions.
    """
    weights = {name: weight.astype(np.float64) for name, weight in adapter.weights.items()}
    if adapter.kind == "linear":
        return [_layer(weights["weight"], None, "Identity")]
    if adapter.kind == "low_rank":
        matrix = np.eye(len(weights["up"])) + weights["up"] @ weights["down"]
        return [_layer(matrix, None, "Identity")]
    identity = np.eye(len(weights["output_bias"]))
    hidden = np.concatenate([weights["hidden_weight"], identity, -identity])
    bias = np.concatenate([weights["hidden_bias"], np.zeros(2 * len(identity))])
    output = np.concatenate([weights["output_weight"], identity, -identity], axis=1)
    return [_layer(hidden, bias, "ReLU"), _layer(output, weights["output_bias"], "Identity")]


def _layer(matrix: Any, bias: Any, activation: str) -> Dense:
    layer = Dense(matrix.shape[1], matrix.shape[0], bias=bias is not None, activation=activation)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.from_numpy(matrix))
        if bias is not None:
            layer.linear.bias.copy_(torch.from_numpy(bias))
    return layer
