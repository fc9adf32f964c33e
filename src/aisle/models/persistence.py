"""Save a trained encoder so that PEFT, transformers and sentence-transformers can load it too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from aisle.errors import ModelError
from aisle.io.durable import apply_umask, sync
from aisle.models.backbone import hidden_size
from aisle.models.fingerprint import fingerprint_of, refers_to_code
from aisle.models.heads import HEADS, Normalize, SavedHead, head_folder, heads_to_save, load_heads
from aisle.models.model_source import ModelSource
from aisle.models.modules_file import MODULES_FILE, write_json
from aisle.models.pooling import FOLDER as POOLING_FOLDER
from aisle.models.run_file import FORMAT_VERSION, SETTINGS_FILE, SHARED_TOWER
from aisle.models.tower import Tower
from aisle.models.weight_names import names_that_differ
from aisle.types.encoder_settings import EncoderSettings

ENCODER_FILES = (
    *("config.json", "model*.safetensors*", "adapter_*", "tokenizer*", "special_tokens_map.json", "vocab*"),
    *(MODULES_FILE, "config_sentence_transformers.json", "sentence_*_config.json", "1_Pooling/config.json"),
    *(f"[0-9]*_{kind}/{name}" for kind in HEADS for name in ("config.json", "model.safetensors")),
)
"""Files that another encoder may have left in a run's folder."""
ST_PACKAGE = "sentence_transformers.models"


def save_encoder(
    run_dir: Path,
    *,
    tower: Tower,
    weights: Mapping[str, torch.Tensor] | None,
    tokenizer: Any,
    settings: EncoderSettings,
    source: ModelSource,
    adapter: bool,
    lineage: Mapping[str, Mapping[str, Any]] | None = None,
    frozen: Mapping[str, torch.Tensor] | None = None,
    more_files: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None,
    advice: str = "free some space, and run the command again",
) -> str:
    """Write an encoder to a run's folder and return its fingerprint.

    All files are written to a staging folder and then moved, `aisle.json` last. So a run with an `aisle.json`
    is complete.

    Args:
        run_dir: Folder of the run; its other files stay.
        tower: Trained tower, unwrapped, on any device.
        weights: Trained weights to save in place of the tower's current weights; None saves the current ones.
        tokenizer: Tokenizer of the tower.
        settings: Pooling, prompts, maximum length, normalisation.
        source: Base model.
        adapter: Whether the backbone has an adapter; then only the adapter is saved.
        lineage: Records of the models that this model was made from, by their keys in `aisle.json`.
        frozen: Frozen weights to save in place of the tower's, if the tower has only a shard of each.
        more_files: Function that takes the contents of `aisle.json` and returns the texts of more files by
            name. They are written with the encoder.
        advice: What to do if the encoder cannot be written, for the message.

    Raises:
        ModelError: The encoder cannot be written; the folder is unchanged.
    """
    staging = run_dir / ".saving"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        _check_names(tower, weights)
        if weights is not None:
            weights = {**weights, **(frozen or {})}
        _write_backbone(staging, tower, weights, adapter=adapter)
        heads = heads_to_save(tower.heads, _within("heads", weights or {}))
        for number, head in enumerate(heads):
            head.save(staging / head_folder(number, head))
        tokenizer.save_pretrained(staging)
        for name, content in _sentence_transformers_files(tower, heads, settings).items():
            write_json(staging / name, content)
        fingerprint = fingerprint_of(
            base_dir=source.path if adapter else staging,
            model_dir=staging,
            adapter=adapter,
            settings=settings,
            heads=load_heads(staging, dim=hidden_size(tower.backbone)),
        )
        description = _description(settings, source, fingerprint, adapter=adapter)
        layers = [head.kind for head in heads if not isinstance(head, Normalize)]
        description |= {"heads": layers} if layers else {}
        description |= {key: dict(record) for key, record in (lineage or {}).items()}
        for name, text in ({} if more_files is None else more_files(description)).items():
            (staging / name).write_text(text, encoding="utf-8")
        write_json(staging / SETTINGS_FILE, description)
        apply_umask(staging)
        for path in staging.rglob("*"):
            sync(path)
    except Exception as error:
        # tokenizers, safetensors and the file system raise different errors for a full disk.
        free = shutil.disk_usage(run_dir.parent).free
        shutil.rmtree(staging, ignore_errors=True)
        raise ModelError(
            f"{run_dir}: the model cannot be saved ({error}); {free:,} bytes were free on that disk; {advice}"
        ) from error
    _move_in(staging, run_dir)
    return fingerprint


def _check_names(tower: Tower, weights: Mapping[str, torch.Tensor] | None) -> None:
    """Refuse weights if their names differ from those of the tower's trained weights.

    Raises:
        ModelError: The names differ.
    """
    if weights is None:
        return
    trained = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    differing = names_that_differ(weights, trained)
    if differing is not None:
        raise ModelError(f"the best evaluation's weights cannot be saved: {differing}")


def _write_backbone(
    folder: Path, tower: Tower, weights: Mapping[str, torch.Tensor] | None, *, adapter: bool
) -> None:
    backbone: Any = tower.backbone
    # Otherwise PEFT asks the Hub whether the vocabulary has grown, which is impossible here.
    options = {"save_embedding_layers": False} if adapter else {}
    state = None if weights is None else {**backbone.state_dict(), **_within("backbone", weights)}
    backbone.save_pretrained(folder, state_dict=state, **options)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template; aisle writes its own model card


def _within(name: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Select the weights of a part of the tower, and remove the part's name from theirs."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


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
        "towers": [{"sides": list(SHARED_TOWER), "path": "", "fingerprint": fingerprint}],
    }


def _sentence_transformers_files(
    tower: Tower, heads: Sequence[SavedHead], settings: EncoderSettings
) -> dict[str, Any]:
    """Return the contents, by name, of the files that describe a tower's modules and prompts."""
    modules = [("", "Transformer"), (POOLING_FOLDER, "Pooling")]
    modules += [(head_folder(number, head), head.kind) for number, head in enumerate(heads)]
    return {
        MODULES_FILE: [
            {"idx": idx, "name": str(idx), "path": path, "type": f"{ST_PACKAGE}.{kind}"}
            for idx, (path, kind) in enumerate(modules)
        ],
        f"{POOLING_FOLDER}/config.json": tower.pooling.config(dim=hidden_size(tower.backbone)),
        "config_sentence_transformers.json": {
            "prompts": {"query": settings.query_prompt, "document": settings.product_prompt},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "sentence_bert_config.json": {"max_seq_length": settings.max_length, "do_lower_case": False},
    }


def _move_in(staging: Path, run_dir: Path) -> None:
    """Move the files to the run's folder, in place of an earlier encoder's.

    The earlier `aisle.json` is removed first, and the new one is moved last.
    """
    replaced = (*ENCODER_FILES, "*.py") if _has_code(run_dir) else ENCODER_FILES
    (run_dir / SETTINGS_FILE).unlink(missing_ok=True)
    files = [path.relative_to(staging) for path in sorted(staging.rglob("*")) if path.is_file()]
    for pattern in replaced:
        for stale in run_dir.glob(pattern):
            if stale.is_file() and stale.relative_to(run_dir) not in files:
                stale.unlink()
    for file in sorted(files, key=lambda file: file.name == SETTINGS_FILE):
        (run_dir / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / file, run_dir / file)
    shutil.rmtree(staging)
    sync(run_dir)


def _has_code(run_dir: Path) -> bool:
    """Return whether the Python files in a folder belong to the encoder there; otherwise they stay."""
    try:
        return refers_to_code(run_dir)
    except ModelError:  # a damaged encoder is replaced too
        return False
