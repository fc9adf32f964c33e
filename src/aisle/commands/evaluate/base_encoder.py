"""Find the base model that an encoder was trained from, and the folder for its embeddings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aisle.bundle.bundle_file import is_bundle, read_bundle
from aisle.bundle.bundle_record import Bundle
from aisle.bundle.onnx_encoder import OnnxEncoder
from aisle.errors import IndexStoreError
from aisle.models.loading import ADAPTER_FILE
from aisle.models.model_source import find_model
from aisle.models.modules_file import read_json
from aisle.models.run_file import read_settings_file
from aisle.search.load_encoder import LoadedEncoder, load_encoder
from aisle.types.encoder_protocol import Precision
from aisle.types.encoder_settings import Overrides

SETTINGS = ("pooling", "query_prompt", "product_prompt", "max_length")
FOLDER_END = ".base"
"""End of the name of the folder beside an index with the base model's embeddings of its catalogue."""


@dataclass(frozen=True)
class BaseModelName:
    """Name and settings of the model that an encoder was trained from.

    Args:
        name: Folder or Hub id.
        revision: Commit on the Hub, if known.
        overrides: Settings of the trained encoder, so that the two differ in their weights alone.
    """

    name: str
    revision: str | None
    overrides: Overrides


def base_of(
    model: str,
    *,
    revision: str | None = None,
    base_model: str | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> BaseModelName | None:
    """Return the base model of a run or an adapter; None if the model was not fine-tuned from another.

    Args:
        model: Folder or Hub id of the encoder.
        revision: Branch, tag or commit of the encoder on the Hub.
        base_model: Folder or Hub id of the base model, if it has moved.
        recorded: Settings that an index records; they win over the settings in the encoder's files.

    Raises:
        ModelError: The encoder does not exist, or its files are damaged.
    """
    if is_bundle(model):
        return _base_of_bundle(read_bundle(Path(model).expanduser()), base_model)
    source = find_model(model, revision=revision)
    saved = read_settings_file(source.path)
    said = {name: (recorded or {}).get(name) for name in SETTINGS}
    if saved is not None:
        name, base_revision = str(saved["base_model"]), saved.get("base_revision")
        said = {key: value if value is not None else saved[key] for key, value in said.items()}
    elif (source.path / ADAPTER_FILE).is_file():
        config = read_json(source.path / ADAPTER_FILE)
        name = str(config.get("base_model_name_or_path") or "")
        base_revision = config.get("revision")
    else:
        return None
    if base_model is not None:
        name, base_revision = base_model, None
    return BaseModelName(name, base_revision, Overrides(**said))


def _base_of_bundle(bundle: Bundle, base_model: str | None) -> BaseModelName | None:
    """Return the base model of the run that was exported, with the settings of the bundle."""
    name = base_model or bundle.source.base_model
    if name is None:
        return None
    return BaseModelName(
        name, None, Overrides(**{setting: getattr(bundle.settings, setting) for setting in SETTINGS})
    )


def load_base_encoder(base: BaseModelName, *, device: str | None, trust_remote_code: bool) -> LoadedEncoder:
    """Return the base as an encoder.

    Raises:
        ModelError: The model does not exist or cannot be loaded.
    """
    return load_encoder(
        base.name,
        revision=base.revision,
        overrides=base.overrides,
        device=device,
        trust_remote_code=trust_remote_code,
    )


def cache_folder(index_dir: Path, report: Path | None) -> Path:
    """Return the folder for the base model's embeddings: beside the index, or else in the report.

    Raises:
        IndexStoreError: Neither folder is writable.
    """
    beside = index_dir.with_name(index_dir.name + FOLDER_END)
    for folder in (beside, None if report is None else report / FOLDER_END):
        if folder is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise IndexStoreError(
        f"{beside}: cannot be written, and the base model's embeddings of the catalogue have to be kept "
        "somewhere; give --report a folder, or --base_model_row none"
    )


def precision_on(encoder: LoadedEncoder, recorded: object) -> Precision:
    """Return the compute type that an index records, or fp32 if the encoder does not support it.

    A bundle computes in one compute type only; on torch, int8 is not supported.
    """
    if isinstance(encoder, OnnxEncoder):
        return encoder.bundle.precision
    return "bf16" if recorded == "bf16" else "fp32"
