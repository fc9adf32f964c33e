"""Dense: a linear layer with an activation over embeddings, in sentence-transformers' format."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.modules_file import read_json, write_json
from aisle.models.weight_names import names_that_differ

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "LeakyReLU", "ELU", "SELU", "Mish")
"""Activations of torch.nn that can be used, all without settings."""
EMBEDDING = "sentence_embedding"
"""Key under which sentence-transformers passes the embedding between its modules."""


class Dense(nn.Module):
    """Project embeddings: activation(W x + b).

    Args:
        in_features: Dimension of the input embeddings.
        out_features: Dimension of the output embeddings.
        bias: Whether the layer has a bias b.
        activation: Name of the activation, one of `ACTIVATIONS`.
    """

    kind = "Dense"

    def __init__(self, in_features: int, out_features: int, *, bias: bool, activation: str) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation: nn.Module = getattr(nn, activation)()

    @classmethod
    def load(cls, folder: Path) -> Dense:
        """Load the layer from a folder, in float32.

        Raises:
            ModelError: A file is missing or damaged, or contains a setting that aisle does not support.
        """
        config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
        config = read_json(config_path)
        _check_config(config_path, config)
        layer = cls(
            config["in_features"],
            config["out_features"],
            bias=config.get("bias", True),
            activation=_activation(config),
        )
        weights = _load_weights(weights_path)
        differing = names_that_differ(weights, layer.state_dict())
        if differing is not None:
            raise ModelError(f"{weights_path}: {differing}")
        try:
            layer.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(f"{weights_path}: does not fit {config_path.name}: {error}") from None
        return layer

    def save(self, folder: Path) -> None:
        """Write the layer's settings and weights to a folder."""
        from safetensors.torch import save_file

        write_json(folder / CONFIG_FILE, self.config())
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    def config(self) -> dict[str, Any]:
        """Return the layer's settings in sentence-transformers' format."""
        activation = type(self.activation)
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{activation.__module__}.{activation.__qualname__}",
        }

    def output_dim(self, dim: int) -> int:
        """Return the dimension of the layer's output.

        Raises:
            ModelError: The layer does not take embeddings of this dimension.
        """
        if dim != self.in_features:
            raise ModelError(
                f"Dense takes embeddings of {self.in_features} components, but its input has {dim}"
            )
        return self.out_features

    def saved_as(self) -> tuple[Dense, ...]:
        """Return the layer itself."""
        return (self,)

    def fingerprint_part(self) -> dict[str, Any]:
        """Return the layer's share of the fingerprint, as JSON: its settings and a hash of each weight."""
        hashes = {
            name: hashlib.sha256(value.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()
            for name, value in self.state_dict().items()
        }
        return {**self.config(), "activation_function": type(self.activation).__name__, "weights": hashes}

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the projected embeddings: (texts, out_features)."""
        projected: torch.Tensor = self.activation(self.linear(embeddings))
        return projected


def _activation(config: dict[str, Any]) -> str:
    return str(config.get("activation_function") or "Tanh").rpartition(".")[2]


def _check_config(path: Path, config: dict[str, Any]) -> None:
    for name in ("in_features", "out_features"):
        size = config.get(name)
        if type(size) is not int or size < 1:
            raise ModelError(f"{path}: {name} must be a whole number above 0; found {size!r}")
    activation = str(config.get("activation_function") or "torch.nn.Tanh")
    if not activation.startswith("torch.nn.") or _activation(config) not in ACTIVATIONS:
        raise ModelError(
            f"{path}: asks for the activation {activation}, which aisle does not support; without it the "
            f"embeddings would differ. aisle supports {', '.join(ACTIVATIONS)} of torch.nn"
        )
    if config.get("use_residual"):
        raise ModelError(f"{path}: asks for use_residual, which aisle does not support")
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, EMBEDDING):
            raise ModelError(
                f"{path}: {name} must be {EMBEDDING}, as aisle applies Dense only to a text's embedding; "
                f"found {config[name]!r}"
            )


def _load_weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(
            f"{path}: is missing; aisle loads weights from safetensors only. Load the model with "
            "sentence-transformers and save it again: save_pretrained(FOLDER, safe_serialization=True)"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path}: is damaged ({error}); copy the model again") from None
