"""What the files of sentence-transformers say about a model: pooling, prompts, maximum length."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aisle.errors import ModelError
from aisle.models.pooling import Pooling

# The names in older files, `pooling_mode_mean_tokens: true`, and in newer ones, `pooling_mode: mean`.
POOLING_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
}
MODULES_FILE = "modules.json"
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class SavedSettings:
    """Settings that a model's folder names; None for what it does not."""

    pooling: Pooling | None
    query_prompt: str | None
    product_prompt: str | None
    max_length: int | None


def read_st_files(folder: Path, *, pooling: Pooling | None) -> SavedSettings:
    """Return what a folder says in the files of sentence-transformers.

    Args:
        folder: of the model.
        pooling: what the user says instead, if anything.

    Raises:
        ModelError: a file is damaged, or asks for a pooling or a layer that aisle does not have.
    """
    _check_modules(folder / MODULES_FILE)
    transformer = module_folder(folder, "Transformer") or folder
    pooled = module_folder(folder, "Pooling") or folder / "1_Pooling"
    prompts = read_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    return SavedSettings(
        pooling=pooling or _pooling(pooled / "config.json"),
        query_prompt=prompts.get("query"),
        product_prompt=prompts.get("document", prompts.get("passage")),
        max_length=read_json(transformer / "sentence_bert_config.json").get("max_seq_length"),
    )


def module_folder(folder: Path, kind: str) -> Path | None:
    """Return the folder that modules.json gives to the first module of a kind, such as Pooling, or None.

    Raises:
        ModelError: modules.json is damaged, or names a folder outside of the model's.
    """
    for module in _modules(folder / MODULES_FILE):
        if str(module.get("type")).rpartition(".")[2] == kind:
            found = (folder / str(module.get("path") or "")).resolve()
            if not found.is_relative_to(folder.resolve()):
                raise ModelError(f"{folder / MODULES_FILE}: names the folder {found} outside of the model's")
            return found
    return None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty where there is none.

    Raises:
        ModelError: the file is not JSON.
    """
    loaded = _load(path)
    return loaded if isinstance(loaded, dict) else {}


def _load(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: is not valid JSON ({error}); restore it") from None


def _modules(path: Path) -> list[dict[str, Any]]:
    modules = _load(path)
    return [one for one in modules if isinstance(one, dict)] if isinstance(modules, list) else []


def _pooling(path: Path) -> Pooling | None:
    saved = read_json(path)
    modes = [key for key, on in saved.items() if key.startswith("pooling_mode_") and on is True]
    if saved.get("pooling_mode"):
        modes = [str(saved["pooling_mode"])]
    if not modes:
        return None
    if len(modes) > 1 or modes[0] not in POOLING_MODES:
        raise ModelError(
            f"{path}: asks for {' and '.join(modes)}; aisle pools by mean, cls or last. "
            "Give one of them with --pooling to use the model otherwise than it was trained"
        )
    return POOLING_MODES[modes[0]]


def _check_modules(path: Path) -> None:
    kinds = [str(module.get("type")) for module in _modules(path)]
    unknown = [kind for kind in kinds if kind.rpartition(".")[2] not in KNOWN_MODULES]
    if unknown:
        raise ModelError(
            f"{path}: the model ends in {', '.join(unknown)}, which aisle does not have; its embeddings "
            f"would be others. aisle has {', '.join(KNOWN_MODULES)}"
        )
