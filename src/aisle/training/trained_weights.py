"""Trained weights: their names, and checkpoints without the frozen weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from aisle.errors import CheckpointError
from aisle.models.weight_names import names_that_differ, without_wrappers


def register_trained_weights_only(accelerator: Any) -> None:
    """Make Accelerate save and load only the trained weights, not the frozen weights."""

    def keep_trained(models: list[Any], weights: list[dict[str, torch.Tensor]], _: str) -> None:
        for index, (model, state) in enumerate(zip(models, weights, strict=False)):
            trained, plain = trained_names(accelerator.unwrap_model(model)), without_wrappers(state)
            weights[index] = {name: plain[name] for name in plain if name in trained}
            _check_names("the checkpoint", weights[index], trained)

    def load_trained(models: list[Any], folder: str) -> None:
        while models:
            model = accelerator.unwrap_model(models.pop())
            weights = read_trained_weights(Path(folder) / "model.safetensors", trained_names(model))
            model.load_state_dict(weights, strict=False)  # the frozen weights are the base model's

    if accelerator.distributed_type.value != "FSDP":
        accelerator.register_save_state_pre_hook(keep_trained)
        accelerator.register_load_state_pre_hook(load_trained)


def trained_names(model: torch.nn.Module) -> set[str]:
    """Return the names of the trained parameters."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def read_trained_weights(file: Path, trained: Collection[str]) -> dict[str, torch.Tensor]:
    """Read the weights in a file, and check that their names are those of the trained weights.

    Args:
        file: Safetensors file.
        trained: Names of the weights that the run trains.

    Raises:
        CheckpointError: The names of the weights in the file differ.
    """
    weights = without_wrappers(load_file(file))
    _check_names(str(file), weights, trained)
    return weights


def _check_names(where: str, weights: Mapping[str, torch.Tensor], trained: Collection[str]) -> None:
    differing = names_that_differ(weights, trained)
    if differing is not None:
        raise CheckpointError(
            f"{where}: {differing}; resume with the settings of that run, or start a new one"
        )
