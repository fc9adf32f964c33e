"""A trained encoder on disk, in the formats of PEFT, transformers and sentence-transformers at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

from aisle.errors import ModelError
from aisle.io.durable import apply_umask, sync
from aisle.models.encoder import EncoderSettings
from aisle.models.fingerprint import fingerprint_of
from aisle.models.loading import FORMAT_VERSION, SETTINGS_FILE
from aisle.models.model_source import ModelSource
from aisle.models.tower import Tower
from aisle.models.weight_names import names_that_differ

ENCODER_FILES = (
    *("config.json", "model*.safetensors*", "adapter_*", "tokenizer*", "special_tokens_map.json", "vocab*"),
    *("modules.json", "config_sentence_transformers.json", "sentence_*_config.json", "[12]_*/config.json"),
)
"""What an encoder of another kind may have left in a run's folder."""
ST_MODULES = (
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Normalize", "sentence_transformers.models.Normalize"),
)


def save_encoder(
    run_dir: Path,
    *,
    embedder: Tower,
    weights: Mapping[str, torch.Tensor] | None,
    tokenizer: Any,
    settings: EncoderSettings,
    source: ModelSource,
    adapter: bool,
    began_at: Mapping[str, Any] | None = None,
) -> str:
    """Write an encoder into a run's folder and return its fingerprint.

    Everything is written into a folder beside and moved in when it is whole, `aisle.json` last: a run
    with an `aisle.json` is complete.

    Args:
        run_dir: the run; its other files are left alone.
        embedder: the trained model, unwrapped, on any device.
        weights: the embedder's trained weights to save in place of those it has now; None saves these.
        tokenizer: the model's tokenizer.
        settings: what is not in the weights.
        source: the base model.
        adapter: whether the backbone carries an adapter, which alone is saved then.
        began_at: the LoRA run that training began at, if it did; it is kept in `aisle.json`.

    Raises:
        ModelError: it could not be written; what was in the folder is as it was.
    """
    staging = run_dir / ".saving"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        _write_weights(staging, embedder, weights, adapter=adapter)
        tokenizer.save_pretrained(staging)
        dim = int(cast(Any, embedder.backbone).config.hidden_size)
        for name, content in _sentence_transformers_files(settings, dim=dim).items():
            _write_json(staging / name, content)
        base_dir = source.path if adapter else staging
        fingerprint = fingerprint_of(base_dir=base_dir, model_dir=staging, adapter=adapter, settings=settings)
        description = _description(settings, source, fingerprint, adapter=adapter)
        if began_at is not None:
            description["began_at"] = dict(began_at)
        _write_json(staging / SETTINGS_FILE, description)
        apply_umask(staging)
        for path in staging.rglob("*"):
            sync(path)
    except Exception as error:
        # tokenizers, safetensors and the file system each report a full disk in a type of their own.
        free = shutil.disk_usage(run_dir.parent).free
        shutil.rmtree(staging, ignore_errors=True)
        raise ModelError(
            f"{run_dir}: the trained model cannot be saved ({error}); {free:,} bytes were free on that disk. "
            "Checkpoints, if there are any, are whole: make room and go on with "
            "--resume_from_checkpoint latest"
        ) from error
    _move_in(staging, run_dir)
    return fingerprint


def _write_weights(
    folder: Path, embedder: Tower, weights: Mapping[str, torch.Tensor] | None, *, adapter: bool
) -> None:
    backbone: Any = embedder.backbone
    # PEFT would ask the Hub whether the vocabulary has grown since; it cannot have.
    options = {"save_embedding_layers": False} if adapter else {}
    backbone.save_pretrained(folder, state_dict=_backbone_weights(backbone, weights), **options)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template; the model card is ours


def _description(
    settings: EncoderSettings, source: ModelSource, fingerprint: str, *, adapter: bool
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "base_model": source.name if source.hub_id else str(source.path),
        "base_model_hub_id": source.hub_id,
        "base_revision": source.revision,
        **asdict(settings),
        "adapter": adapter,
        "fingerprint": fingerprint,
    }


def _backbone_weights(
    backbone: Any, weights: Mapping[str, torch.Tensor] | None
) -> dict[str, torch.Tensor] | None:
    if weights is None:
        return None
    own = {name.removeprefix("backbone."): value for name, value in weights.items()}
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    differing = names_that_differ(own, trained)
    if differing is not None:
        raise ModelError(f"the best evaluation's weights cannot be saved: {differing}")
    return {**backbone.state_dict(), **own}


def _sentence_transformers_files(settings: EncoderSettings, *, dim: int) -> dict[str, Any]:
    modules = ST_MODULES if settings.normalize else ST_MODULES[:2]
    return {
        "modules.json": [
            {"idx": idx, "name": str(idx), "path": path, "type": kind}
            for idx, (path, kind) in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": dim,
            "pooling_mode_cls_token": settings.pooling == "cls",
            "pooling_mode_mean_tokens": settings.pooling == "mean",
            "pooling_mode_lasttoken": settings.pooling == "last",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "include_prompt": True,
        },
        "config_sentence_transformers.json": {
            "prompts": {"query": settings.query_prompt, "document": settings.product_prompt},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "sentence_bert_config.json": {"max_seq_length": settings.max_length, "do_lower_case": False},
    }


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _move_in(staging: Path, run_dir: Path) -> None:
    """Replace an earlier encoder's files by the saved ones: `aisle.json` goes first and comes last."""
    (run_dir / SETTINGS_FILE).unlink(missing_ok=True)
    files = [path.relative_to(staging) for path in sorted(staging.rglob("*")) if path.is_file()]
    for pattern in ENCODER_FILES:
        for stale in run_dir.glob(pattern):
            if stale.is_file() and stale.relative_to(run_dir) not in files:
                stale.unlink()
    for file in sorted(files, key=lambda file: file.name == SETTINGS_FILE):
        (run_dir / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / file, run_dir / file)
    shutil.rmtree(staging)
    sync(run_dir)
