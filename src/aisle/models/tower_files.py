"""Write the files of a tower to a folder, which PEFT, transformers and sentence-transformers can load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.backbone import hidden_size
from aisle.models.fingerprint import fingerprint_of
from aisle.models.heads import Normalize, SavedHead, head_folder, heads_to_save, load_heads
from aisle.models.model_source import ModelSource
from aisle.models.modules_file import MODULES_FILE, write_json
from aisle.models.pooling import FOLDER as POOLING_FOLDER
from aisle.models.run_file import FORMAT_VERSION, SHARED_TOWER
from aisle.models.tower import Tower
from aisle.models.weight_names import names_that_differ
from aisle.types.encoder_settings import EncoderSettings

ST_PACKAGE = "sentence_transformers.models"
ST_SETTINGS_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILE = "sentence_bert_config.json"


def write_tower(
    folder: Path,
    *,
    tower: Tower,
    weights: Mapping[str, torch.Tensor] | None,
    tokenizer: Any,
    settings: EncoderSettings,
    source: ModelSource,
    adapter: bool,
    frozen: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, Any]:
    """Write the files of a tower, except `aisle.json`, and return the contents of that file.

    Args:
        folder: Folder to write to.
        tower: As in `save_encoder`.
        weights: As in `save_encoder`.
        tokenizer: As in `save_encoder`.
        settings: As in `save_encoder`.
        source: As in `save_encoder`.
        adapter: As in `save_encoder`.
        frozen: As in `save_encoder`.

    Raises:
        ModelError: The weights are not those of the tower.
        OSError: A file cannot be written.
    """
    check_names(tower, weights)
    if weights is not None:
        weights = {**weights, **(frozen or {})}
    _write_backbone(folder, tower, weights, adapter=adapter)
    heads = heads_to_save(tower.heads, _within("heads", weights or {}))
    tokenizer.save_pretrained(folder)
    write_modules(folder, tower, heads, settings)
    fingerprint = fingerprint_of(
        base_dir=source.path if adapter else folder,
        model_dir=folder,
        adapter=adapter,
        settings=settings,
        heads=load_heads(folder, dim=hidden_size(tower.backbone)),
    )
    return describe(settings, source, fingerprint, adapter=adapter, heads=heads)


def write_modules(folder: Path, tower: Tower, heads: Sequence[SavedHead], settings: EncoderSettings) -> None:
    """Write a tower's heads, and the files that describe its modules and prompts to sentence-transformers.

    Raises:
        OSError: A file cannot be written.
    """
    for number, head in enumerate(heads):
        head.save(folder / head_folder(number, head))
    for name, content in _sentence_transformers_files(tower, heads, settings).items():
        write_json(folder / name, content)


def check_names(tower: nn.Module, weights: Mapping[str, torch.Tensor] | None) -> None:
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


def describe(
    settings: EncoderSettings,
    source: ModelSource,
    fingerprint: str,
    *,
    adapter: bool,
    heads: Sequence[SavedHead],
) -> dict[str, Any]:
    """Return the contents of the `aisle.json` of a tower.

    Args:
        settings: As in `save_encoder`.
        source: As in `save_encoder`.
        fingerprint: Fingerprint of the tower.
        adapter: As in `save_encoder`.
        heads: Heads as they are saved.
    """
    layers = [head.kind for head in heads if not isinstance(head, Normalize)]
    return {
        "format_version": FORMAT_VERSION,
        "base_model": source.name if source.hub_id else str(source.path),
        "base_model_hub_id": source.hub_id,
        "base_revision": source.revision,
        **asdict(settings),
        "adapter": adapter,
        "fingerprint": fingerprint,
        "towers": [{"sides": list(SHARED_TOWER), "path": "", "fingerprint": fingerprint}],
        **({"heads": layers} if layers else {}),
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
        ST_SETTINGS_FILE: st_settings(
            settings.query_prompt, settings.product_prompt, normalize=settings.normalize
        ),
        TRANSFORMER_FILE: {"max_seq_length": settings.max_length, "do_lower_case": False},
    }


def st_settings(query_prompt: str, product_prompt: str, *, normalize: bool) -> dict[str, Any]:
    """Return the contents of the file with sentence-transformers' settings of a whole model.

    Args:
        query_prompt: Prompt before every query.
        product_prompt: Prompt before every product.
        normalize: Whether embeddings have unit L2 norm, and so are compared by cosine.
    """
    return {
        "prompts": {"query": query_prompt, "document": product_prompt},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if normalize else "dot",
    }
