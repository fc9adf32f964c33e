"""Read settings from sentence-transformers' files: pooling, prompts, maximum length, lower case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aisle.errors import ModelError
from aisle.models.modules_file import module_folder, read_json
from aisle.models.pooling import pooling_file, saved_pooling
from aisle.types.choices import PoolingMode

# In the order in which sentence-transformers tries them.
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
PRODUCT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True)
class SavedSettings:
    """Settings from a model's files; None for each setting that the files do not give."""

    pooling: PoolingMode | None
    query_prompt: str | None
    product_prompt: str | None
    max_length: int | None


def read_st_files(
    folder: Path,
    *,
    pooling: PoolingMode | None,
    query_prompt: str | None = None,
    product_prompt: str | None = None,
) -> SavedSettings:
    """Read the settings in sentence-transformers' files.

    Args:
        folder: Folder of the model.
        pooling: Pooling from the user, which overrides the file's.
        query_prompt: Prompt for queries from the user, which overrides the file's.
        product_prompt: Prompt for products from the user, which overrides the file's.

    Raises:
        ModelError: A file is damaged, or asks for a pooling or prompts that aisle does not support.
    """
    transformer = module_folder(folder, "Transformer") or folder
    pooled = pooling_file(folder)
    prompts = _prompts(folder / "config_sentence_transformers.json", query_prompt, product_prompt)
    if pooling is None and any(prompts) and read_json(pooled).get("include_prompt") is False:
        raise ModelError(
            f"{pooled}: excludes the prompt's tokens from the pooling (include_prompt: false), which aisle "
            "does not support; the embeddings would differ. Give --query_prompt '' and --product_prompt '' "
            "to use the model without prompts, or its pooling with --pooling to include the prompts' tokens"
        )
    return SavedSettings(
        pooling=pooling or saved_pooling(pooled),
        query_prompt=prompts[0],
        product_prompt=prompts[1],
        max_length=_transformer_settings(transformer).get("max_seq_length"),
    )


def names_pooling(folder: Path) -> bool:
    """Return whether a folder's files give a pooling.

    Raises:
        ModelError: A file is damaged, or asks for a pooling that aisle does not support.
    """
    return saved_pooling(pooling_file(folder)) is not None


def lower_cases(folder: Path) -> bool:
    """Return whether sentence-transformers lower-cases texts before a folder's tokenizer reads them.

    Raises:
        ModelError: The file is not JSON.
    """
    return _transformer_settings(folder).get("do_lower_case") is True


def _transformer_settings(folder: Path) -> dict[str, Any]:
    """Return the settings in the first of `TRANSFORMER_FILES` that exists: maximum length, lower case."""
    return next((read_json(folder / name) for name in TRANSFORMER_FILES if (folder / name).is_file()), {})


def _prompts(path: Path, query: str | None, product: str | None) -> tuple[str | None, str | None]:
    """Return the prompts for queries and products: from the user, else by name, else the default prompt.

    Raises:
        ModelError: The file has prompts only under other names, and the user gives no prompt.
    """
    config = read_json(path)
    named = {str(name): str(text) for name, text in (config.get("prompts") or {}).items() if text is not None}
    default = config.get("default_prompt_name")
    of_product = next((name for name in PRODUCT_PROMPTS if name in named), None)
    ours = {"query", *PRODUCT_PROMPTS}
    # If the default prompt is the prompt of one side, do not use it for the other side.
    general = named.get(default) if isinstance(default, str) and default not in ours else None
    found = (named.get("query", general), general if of_product is None else named[of_product])
    others = [name for name, text in named.items() if text and name not in ours]
    if others and found == (None, None) and (query is None or product is None):
        raise ModelError(
            f"{path}: has the prompts {', '.join(f'{name} ({named[name]!r})' for name in others)}, but no "
            "prompt named query or document; give the prompts for queries and products with --query_prompt "
            "and --product_prompt ('' for no prompt)"
        )
    return (found[0] if query is None else query, found[1] if product is None else product)
