"""Average the weights of runs from the same base model into a single model of the same speed.

Source: model soups, https://arxiv.org/abs/2203.05482. Runs with different data, losses or settings make
different errors, and the average of their weights is often better than the best run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch

from aisle.errors import ModelError
from aisle.models.encoder import TorchEncoder
from aisle.models.heads import fingerprint_parts
from aisle.models.loading import load_encoder
from aisle.models.matryoshka import kept_record
from aisle.models.model_source import find_model
from aisle.models.run_file import read_settings_file, refuse_two_towers
from aisle.models.weight_names import names_that_differ
from aisle.models.whole_model import WholeModel
from aisle.types.encoder_settings import EncoderSettings
from aisle.types.sequences import as_sequence


def average_runs(runs: Iterable[str], weights: Iterable[float], *, token: str | None = None) -> WholeModel:
    """Return the weighted average of the weights of runs; adapters are merged into their base first.

    The sum is in float64. Memory must hold the sum and two runs.

    Args:
        runs: Folders or Hub ids of runs, with LoRA or full fine-tuning.
        weights: Number above 0 for each run; they are divided by their sum.
        token: Token for private and gated repositories on the Hub.

    Raises:
        ModelError: A run cannot be loaded, is not a run, or differs from the first run in its base model or
            settings.
    """
    runs, weights = (as_sequence(runs, "runs", ModelError), as_sequence(weights, "weights", ModelError))
    described = [_described(run, token) for run in runs]
    for run, other in zip(runs[1:], described[1:], strict=True):
        _check_alike(runs[0], described[0], run, other)
    first: TorchEncoder | None = None
    total: dict[str, torch.Tensor] = {}
    for run, weight in zip(runs, weights, strict=True):
        encoder = load_encoder(run, token=token, device="cpu")
        first = first or encoder
        own = dict(encoder.model.product_tower.named_parameters())
        differing = names_that_differ(own, dict(first.model.product_tower.named_parameters()))
        if differing is not None:
            raise ModelError(f"{run}: cannot be averaged with {runs[0]}: {differing}")
        if encoder is not first:
            _check_heads(runs[0], first, run, encoder)
        for name, parameter in own.items():
            part = parameter.detach().double() * (weight / sum(weights))
            total[name] = total[name] + part if name in total else part
    assert first is not None  # there are runs
    with torch.no_grad():
        for name, parameter in first.model.product_tower.named_parameters():
            parameter.copy_(total[name])
    saved = described[0]
    base = find_model(str(saved["base_model"]), revision=saved.get("base_revision"), token=token)
    return WholeModel(
        first.model.product_tower, first.tokenizer, first.settings, base, lineage=kept_record(*described)
    )


def _check_heads(first: str, one: TorchEncoder, run: str, other: TorchEncoder) -> None:
    """Refuse runs whose heads differ in their layers, sizes or activations."""
    settings = [
        [
            {name: value for name, value in part.items() if name != "weights"}
            for part in fingerprint_parts(list(encoder.model.product_tower.heads))
        ]
        for encoder in (one, other)
    ]
    if settings[0] != settings[1]:
        raise ModelError(
            f"{run}: has the heads {_layers(settings[1])}, and {first} has {_layers(settings[0])}; runs "
            "can be averaged only if their heads have the same layers, sizes and activations"
        )


def _layers(heads: list[dict[str, Any]]) -> str:
    """Describe heads: `Normalize, Dense 384 to 384 with Identity`."""
    return ", ".join(
        f"{head['kind']} {head['in_features']} to {head['out_features']} with {head['activation_function']}"
        if "in_features" in head
        else str(head["kind"])
        for head in heads
    )


def _described(run: str, token: str | None) -> dict[str, Any]:
    source = find_model(run, token=token)
    saved = read_settings_file(source.path)
    if saved is None:
        raise ModelError(f"{run}: is not a run; it has no aisle.json. Give folders that train_peft.py made")
    refuse_two_towers(source, saved, why="towers are averaged one at a time")
    return saved


def _check_alike(first: str, one: dict[str, Any], run: str, other: dict[str, Any]) -> None:
    """Refuse runs that differ in their base model or settings."""
    for name in ("base_model", "base_revision", *(field.name for field in fields(EncoderSettings))):
        if one.get(name) != other.get(name):
            raise ModelError(
                f"{run}: has {name} {other.get(name)!r}, and {first} has {one.get(name)!r}; "
                "runs can be averaged only if they have the same base model and the same settings"
            )
