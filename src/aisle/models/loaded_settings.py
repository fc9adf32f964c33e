"""Settings of a loaded model: from its files, from a run's `aisle.json`, overridden by the user's."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast

from torch import nn

from aisle.errors import ModelError
from aisle.models.backbone import is_decoder, longest_input
from aisle.models.model_source import ModelSource
from aisle.models.st_files import read_st_files
from aisle.types.choices import PoolingMode
from aisle.types.encoder_settings import EncoderSettings, Overrides

# https://huggingface.co/intfloat/e5-large-v2: "each input text should start with query: or passage:".
E5_NAME = re.compile(r"(^|[/_-])(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?/?$", re.IGNORECASE)


def with_saved(overrides: Overrides, saved: dict[str, Any]) -> Overrides:
    """Complete the user's settings with those of a run, to override a base model's files.

    The base model's files may ask for a pooling or prompts that aisle does not support and training replaced.
    """
    return replace(
        overrides,
        pooling=overrides.pooling or saved["pooling"],
        query_prompt=_first_given(overrides.query_prompt, saved["query_prompt"]),
        product_prompt=_first_given(overrides.product_prompt, saved["product_prompt"]),
    )


def saved_settings(saved: dict[str, Any], overrides: Overrides) -> EncoderSettings:
    """Return the settings in a run's `aisle.json`, overridden by the user's settings."""
    return EncoderSettings(
        pooling=overrides.pooling or cast(PoolingMode, saved["pooling"]),
        query_prompt=_first_given(overrides.query_prompt, saved["query_prompt"]),
        product_prompt=_first_given(overrides.product_prompt, saved["product_prompt"]),
        max_length=overrides.max_length or int(saved["max_length"]),
        normalize=bool(saved["normalize"]),
    )


def base_settings(
    source: ModelSource, backbone: nn.Module, tokenizer: Any, overrides: Overrides
) -> EncoderSettings:
    """Return the settings in a base model's files, overridden by the user's settings.

    Raises:
        ModelError: `max_length` is longer than the model can read, or the files ask for settings that aisle
            does not support.
    """
    files = read_st_files(
        source.root or source.path,
        pooling=overrides.pooling,
        query_prompt=overrides.query_prompt,
        product_prompt=overrides.product_prompt,
    )
    e5 = bool(E5_NAME.search(source.hub_id or source.name))
    limit = longest_input(backbone, tokenizer)
    max_length = overrides.max_length or min(limit, files.max_length or limit)
    if max_length > limit:
        raise ModelError(f"--max_length {max_length}: {source.name} reads at most {limit} tokens")
    return EncoderSettings(
        pooling=files.pooling or ("last" if is_decoder(backbone) else "mean"),
        query_prompt=_first_given(files.query_prompt, "query: " if e5 else ""),
        product_prompt=_first_given(files.product_prompt, "passage: " if e5 else ""),
        max_length=max_length,
    )


def check_prompts(settings: EncoderSettings, tokenizer: Any) -> None:
    """Refuse a prompt that leaves no room for a text: all texts would have the same embedding.

    Raises:
        ModelError: A prompt is too long.
    """
    for name in ("query_prompt", "product_prompt"):
        prompt = getattr(settings, name)
        tokens = len(tokenizer(prompt)["input_ids"])
        if prompt and tokens >= settings.max_length:
            raise ModelError(
                f"--{name} {prompt!r}: has {tokens} tokens, special tokens included, and --max_length "
                f"{settings.max_length} leaves no room for a text; shorten it, or give a higher --max_length"
            )


def _first_given(*values: str | None) -> str:
    return next((value for value in values if value is not None), "")
