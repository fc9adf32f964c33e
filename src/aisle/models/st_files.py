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
# In the order in which sentence-transformers looks for them.
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
PRODUCT_PROMPTS = ("document", "passage", "corpus")
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class SavedSettings:
    """Settings that a model's folder names; None for what it does not."""

    pooling: Pooling | None
    query_prompt: str | None
    product_prompt: str | None
    max_length: int | None


def read_st_files(
    folder: Path,
    *,
    pooling: Pooling | None,
    query_prompt: str | None = None,
    product_prompt: str | None = None,
) -> SavedSettings:
    """Return what a folder says in the files of sentence-transformers.

    Args:
        folder: of the model.
        pooling: what the user says instead, if anything.
        query_prompt: likewise.
        product_prompt: likewise.

    Raises:
        ModelError: a file is damaged, or asks for a pooling, a layer or prompts that aisle does not have.
    """
    _check_modules(folder / MODULES_FILE)
    transformer = module_folder(folder, "Transformer") or folder
    pooled = (module_folder(folder, "Pooling") or folder / "1_Pooling") / "config.json"
    prompts = _prompts(folder / "config_sentence_transformers.json", query_prompt, product_prompt)
    if pooling is None and any(prompts) and read_json(pooled).get("include_prompt") is False:
        raise ModelError(
            f"{pooled}: leaves the prompt's tokens out of the pooling (include_prompt: false), as aisle "
            "cannot; its embeddings would be others. Give --query_prompt '' and --product_prompt '' to use "
            "the model without prompts, or its pooling with --pooling to take the prompts' tokens in"
        )
    return SavedSettings(
        pooling=pooling or _pooling(pooled),
        query_prompt=prompts[0],
        product_prompt=prompts[1],
        max_length=_transformer_settings(transformer).get("max_seq_length"),
    )


def names_pooling(folder: Path) -> bool:
    """Return whether a folder says how a text's token vectors become one.

    Raises:
        ModelError: a file is damaged, or asks for a pooling that aisle does not have.
    """
    return _pooling((module_folder(folder, "Pooling") or folder / "1_Pooling") / "config.json") is not None


def lower_cases(folder: Path) -> bool:
    """Return whether sentence-transformers puts texts into lower case before a folder's tokenizer reads them.

    Raises:
        ModelError: the file is not JSON.
    """
    return _transformer_settings(folder).get("do_lower_case") is True


def _transformer_settings(folder: Path) -> dict[str, Any]:
    """Return what is said of maximum length and lower case, in the first of the files that is there."""
    return next((read_json(folder / name) for name in TRANSFORMER_FILES if (folder / name).is_file()), {})


def _prompts(path: Path, query: str | None, product: str | None) -> tuple[str | None, str | None]:
    """Return the prompts of queries and products: the user's, those of their names, or the default one.

    Raises:
        ModelError: there are prompts of other names only, and nobody says which are whose.
    """
    config = read_json(path)
    named = {str(name): str(text) for name, text in (config.get("prompts") or {}).items() if text is not None}
    default = config.get("default_prompt_name")
    of_product = next((name for name in PRODUCT_PROMPTS if name in named), None)
    ours = {"query", *PRODUCT_PROMPTS}
    # A default that is one side's prompt is not the other's.
    general = named.get(default) if isinstance(default, str) and default not in ours else None
    found = (named.get("query", general), general if of_product is None else named[of_product])
    others = [name for name, text in named.items() if text and name not in ours]
    if others and found == (None, None) and (query is None or product is None):
        raise ModelError(
            f"{path}: has the prompts {', '.join(f'{name} ({named[name]!r})' for name in others)}, and none "
            "is called query or document; say which to put before queries and products with --query_prompt "
            "and --product_prompt ('' for none)"
        )
    return (found[0] if query is None else query, found[1] if product is None else product)


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
