"""Save a trained cross-encoder so that transformers and sentence-transformers can load it too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from aisle.models.cross_encoder import CrossEncoder
from aisle.models.cross_encoder_loading import LoadedCrossEncoder
from aisle.models.fingerprint import fingerprint_of
from aisle.models.persistence import ADVICE, finish_run, staged_run
from aisle.models.prepare_cross_encoder import whole_model
from aisle.models.prepare_model import Lora
from aisle.models.run_file import FORMAT_VERSION, RERANKER
from aisle.models.tower_files import check_names


def save_cross_encoder(
    run_dir: Path,
    *,
    model: CrossEncoder,
    weights: Mapping[str, torch.Tensor] | None,
    loaded: LoadedCrossEncoder,
    lora: Lora | None,
    trust_remote_code: bool = False,
    more_files: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None,
    advice: str = ADVICE,
) -> str:
    """Write a cross-encoder to a run's folder and return its fingerprint; an adapter is merged into it.

    The folder is transformers' for sequence classification, which sentence-transformers' `CrossEncoder` reads
    too: its scores are the sigmoids of the logits. `aisle.json` is moved in last, as in `save_encoder`.

    Args:
        run_dir: Folder of the run; its other files stay.
        model: Trained model, unwrapped, on any device.
        weights: Trained weights to save in place of the model's current weights; None saves the current ones.
        loaded: Model that training started from.
        lora: Adapter that was trained; None if all weights were.
        trust_remote_code: Whether to run Python code from the base model's repository.
        more_files: As in `save_encoder`.
        advice: What to do if the model cannot be written, for the message.

    Raises:
        ModelError: The model cannot be written; the folder is unchanged.
    """
    with staged_run(run_dir, advice=advice) as staging:
        check_names(model, weights)
        if weights is None:
            weights = {name: one.data for name, one in model.named_parameters() if one.requires_grad}
        whole: Any = whole_model(loaded, weights, lora=lora, trust_remote_code=trust_remote_code)
        _predict_sigmoids(whole.config)
        whole.save_pretrained(staging)
        tokenizer = copy.copy(loaded.tokenizer)
        tokenizer.model_max_length = loaded.settings.max_length  # where CrossEncoder cuts pairs
        tokenizer.save_pretrained(staging)
        fingerprint = fingerprint_of(
            base_dir=staging, model_dir=staging, adapter=False, settings=loaded.settings
        )
        source = loaded.source
        description: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "kind": RERANKER,
            "base_model": source.name if source.hub_id else str(source.path),
            "base_model_hub_id": source.hub_id,
            "base_revision": source.revision,
            "max_length": loaded.settings.max_length,
            "trained": "all weights" if lora is None else "LoRA, merged",
            "fingerprint": fingerprint,
        }
        finish_run(staging, description, lineage=None, more_files=more_files)
    return fingerprint


def _predict_sigmoids(config: Any) -> None:
    """Make `predict` of sentence-transformers return sigmoids, whatever the base model's function was.

    The ms-marco models, for example, return logits. Version 4.0 of sentence-transformers renamed the field.
    """
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    vars(config).pop("sbert_ce_default_activation_function", None)
