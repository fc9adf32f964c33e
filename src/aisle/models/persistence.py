"""A trained encoder on disk, in the formats of PEFT, transformers and sentence-transformers at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from aisle.durable import sync
from aisle.models.encoder import EncoderSettings, TextEmbedder
from aisle.models.fingerprint import fingerprint_of
from aisle.models.loading import SETTINGS_FILE
from aisle.models.sources import ModelSource

FORMAT_VERSION = 1
ST_MODULES = (
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Normalize", "sentence_transformers.models.Normalize"),
)


def save_encoder(
    run_dir: Path,
    *,
    embedder: TextEmbedder,
    weights: Mapping[str, torch.Tensor] | None,
    tokenizer: Any,
    settings: EncoderSettings,
    source: ModelSource,
    adapter: bool,
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
    """
    staging = run_dir / ".saving"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    backbone: Any = embedder.backbone
    # PEFT would ask the Hub whether the vocabulary has grown since; it cannot have.
    options = {"save_embedding_layers": False} if adapter else {}
    backbone.save_pretrained(staging, state_dict=_backbone_weights(backbone, weights), **options)
    (staging / "README.md").unlink(missing_ok=True)  # PEFT's template; the model card is ours
    tokenizer.save_pretrained(staging)
    dim = int(backbone.config.hidden_size)
    for name, content in _sentence_transformers_files(settings, dim=dim).items():
        _write_json(staging / name, content)
    fingerprint = fingerprint_of(
        base_dir=source.path if adapter else staging, model_dir=staging, adapter=adapter, settings=settings
    )
    description = {
        "format_version": FORMAT_VERSION,
        "base_model": source.name if source.hub_id else str(source.path),
        "base_model_hub_id": source.hub_id,
        "base_revision": source.revision,
        "pooling": settings.pooling,
        "normalize": settings.normalize,
        "query_prompt": settings.query_prompt,
        "product_prompt": settings.product_prompt,
        "max_length": settings.max_length,
        "adapter": adapter,
        "fingerprint": fingerprint,
    }
    _write_json(staging / SETTINGS_FILE, description)
    _move_in(staging, run_dir)
    return fingerprint


def _backbone_weights(
    backbone: Any, weights: Mapping[str, torch.Tensor] | None
) -> dict[str, torch.Tensor] | None:
    if weights is None:
        return None
    own = {name.removeprefix("backbone."): value for name, value in weights.items()}
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
    files = [path for path in sorted(staging.rglob("*")) if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == SETTINGS_FILE):
        target = run_dir / path.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(path)
        os.replace(path, target)
    shutil.rmtree(staging)
