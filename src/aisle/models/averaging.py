"""The average of the weights of runs that began at one base model: one model, as fast as any of them.

Source: model soups, https://arxiv.org/abs/2203.05482. Runs with other data, losses or settings differ in
where they are wrong, and the average of their weights is often better than the best of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from aisle.errors import ModelError
from aisle.models.encoder import EncoderSettings, TorchEncoder
from aisle.models.loading import load_encoder, read_settings_file
from aisle.models.model_source import ModelSource, find_model
from aisle.models.tower import Tower
from aisle.models.weight_names import names_that_differ
from aisle.types.sequences import as_sequence


@dataclass(frozen=True)
class AveragedRuns:
    """The average of some runs.

    Args:
        embedder: with the averaged weights, on the CPU.
        tokenizer: of the first run.
        settings: of all runs.
        base: the model that all runs began at.
    """

    embedder: Tower
    tokenizer: Any
    settings: EncoderSettings
    base: ModelSource


def average_runs(runs: Iterable[str], weights: Iterable[float], *, token: str | None = None) -> AveragedRuns:
    """Return the weighted average of the weights of runs; adapters are merged into their base before.

    The sum is taken in float64; the first run and one other are in memory beside it.

    Args:
        runs: folders or Hub ids, of LoRA or of full fine-tuning.
        weights: one for each run, above 0; they are divided by their sum.
        token: for private and gated repositories on the Hub.

    Raises:
        ModelError: a run cannot be loaded, is no run, or began at another base model or with other settings
            than the first.
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
        own = dict(encoder.embedder.named_parameters())
        differing = names_that_differ(own, dict(first.embedder.named_parameters()))
        if differing is not None:
            raise ModelError(f"{run}: cannot be averaged with {runs[0]}: {differing}")
        for name, parameter in own.items():
            part = parameter.detach().double() * (weight / sum(weights))
            total[name] = total[name] + part if name in total else part
    assert first is not None  # there are runs
    with torch.no_grad():
        for name, parameter in first.embedder.named_parameters():
            parameter.copy_(total[name])
    saved = described[0]
    base = find_model(str(saved["base_model"]), revision=saved.get("base_revision"), token=token)
    return AveragedRuns(first.embedder, first.tokenizer, first.settings, base)


def _described(run: str, token: str | None) -> dict[str, Any]:
    folder: Path = find_model(run, token=token).path
    saved = read_settings_file(folder)
    if saved is None:
        raise ModelError(f"{run}: is no run; it has no aisle.json. Give folders that train_peft.py made")
    return saved


def _check_alike(first: str, one: dict[str, Any], run: str, other: dict[str, Any]) -> None:
    """Refuse runs whose weights, or what is done with them, do not go together."""
    for name in ("base_model", "base_revision", *(field.name for field in fields(EncoderSettings))):
        if one.get(name) != other.get(name):
            raise ModelError(
                f"{run}: has {name} {other.get(name)!r}, and {first} has {one.get(name)!r}; "
                "only runs that began at one base model and embed alike can be averaged"
            )
