"""Load a backbone from its files as a text encoder, or refuse it with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.model_source import ModelSource
from aisle.models.modules_file import read_json

PROBE_TEXT = "a"
T5_FAMILY = ("t5", "mt5", "umt5")
"""Encoder-decoders of which the encoder alone is loaded, as sentence-transformers does (sentence-t5)."""


def load_backbone(source: ModelSource, *, trust_remote_code: bool = False) -> nn.Module:
    """Return the backbone in float32; of T5 and its relatives, the encoder.

    Raises:
        ModelError: There are no safetensors weights; weights of the architecture are missing; the model has a
            decoder that reads an encoder's output; or it needs a package or code that is missing.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig

    if not list(source.path.glob("*.safetensors")):
        raise ModelError(
            f"{source.path}: has no *.safetensors file; aisle loads weights from safetensors only. "
            "Convert pickled weights where they are, so that the files of pooling and prompts beside them "
            f'stay: python -c "from transformers import AutoModel as M; d = {str(source.path)!r}; '
            'M.from_pretrained(d).save_pretrained(d)"'
        )
    try:
        config = AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
        backbone, info = _text_model(source, config).from_pretrained(
            source.path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    except ImportError as error:
        raise ModelError(
            f"{source.name}: needs a package that is not installed, or not in this version: {one_line(error)}"
        ) from None
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, SafetensorError) as error:
        hint = "" if trust_remote_code else code_hint(source.path)
        reason = hint or f": {one_line(error)}"
        raise ModelError(f"{source.name}: cannot be loaded as a model{reason}") from None
    # transformers draws missing weights at random. The pooler's do not matter: no embedding depends on them.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        hint = "" if trust_remote_code else code_hint(source.path)
        raise ModelError(
            f"{source.path}: its safetensors lack {len(missing)} weights of {type(backbone).__name__}, "
            f"{missing[0]} for example; they are of another architecture, or not whole{hint}"
        )
    loaded: nn.Module = backbone
    return loaded


def check_reads_text(source: ModelSource, backbone: nn.Module, tokenizer: Any) -> None:
    """Refuse a backbone that does not return a vector for each of the tokenizer's tokens.

    Raises:
        ModelError: The tokenizer has tokens without an embedding in the backbone, or the backbone fails on a
            text or returns something else.
    """
    model: Any = backbone
    try:
        rows = model.get_input_embeddings().weight.shape[0]
    except (AttributeError, NotImplementedError):
        rows = None
    if rows is not None and len(tokenizer) > rows:
        raise ModelError(
            f"{source.name}: its tokenizer has {len(tokenizer):,} tokens and its weights have embeddings for "
            f"{rows:,}: they do not belong together. If tokens were added, resize the model's embeddings "
            "(resize_token_embeddings) and save both"
        )
    tokens = tokenizer(PROBE_TEXT, return_tensors="pt")
    kind = type(backbone).__name__
    try:
        with torch.inference_mode():
            output = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        found = tuple(output.last_hidden_state.shape)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{source.name}: {kind} does not read a text: {one_line(error)}") from None
    expected = (1, tokens["input_ids"].shape[1], hidden_size(backbone))
    if found != expected:
        raise ModelError(
            f"{source.name}: {kind} must return a vector for each token, {expected}; it returned {found}"
        )


def hidden_size(backbone: nn.Module) -> int:
    """Return the length of a backbone's token vectors."""
    config: Any = backbone.config
    return int(config.hidden_size)


def padding_token(backbone: nn.Module) -> int:
    """Return the token that a backbone expects as padding; 0 if its configuration names none."""
    config: Any = backbone.config
    return int(config.pad_token_id or 0)


def positions(backbone: nn.Module) -> int:
    """Return the number of positions in a backbone's configuration; 0 if it names no limit."""
    config: Any = backbone.config
    return int(getattr(config, "max_position_embeddings", None) or 0)


def vocabulary_size(backbone: nn.Module) -> int:
    """Return the number of tokens that a backbone has embeddings for."""
    config: Any = backbone.config
    return int(config.vocab_size)


def longest_input(backbone: nn.Module, tokenizer: Any) -> int:
    """Return the most tokens that a backbone can read."""
    longest = positions(backbone) or tokenizer.model_max_length
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its relatives count positions from the one after the padding index.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            longest = module.num_embeddings - first
    return int(min(longest, tokenizer.model_max_length, 1_000_000))


def is_decoder(backbone: nn.Module) -> bool:
    """Return whether a backbone was trained as a language model that generates text."""
    config: Any = backbone.config
    return any("ForCausalLM" in name for name in config.architectures or ())


def code_hint(folder: Path) -> str:
    """Return advice for a model whose repository contains Python code; empty for other models."""
    if "auto_map" not in read_json(folder / "config.json"):
        return ""
    return ". The model comes with Python code: read it, and run it with --trust_remote_code"


def one_line(error: Exception) -> str:
    """Return an error's message in a single line of at most 300 characters."""
    words = " ".join(str(error).split())
    return words[:300] + "..." * (len(words) > 300) if words else type(error).__name__


def _text_model(source: ModelSource, config: Any) -> Any:
    """Return the class that loads a configuration: for T5 and its relatives, the class of T5's encoder.

    Raises:
        ModelError: The model is another encoder with a decoder.
    """
    from transformers import AutoModel, AutoModelForTextEncoding

    if config.model_type in T5_FAMILY:
        return AutoModelForTextEncoding
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{source.name}: {config.model_type} is an encoder with a decoder, and its token vectors are the "
            "decoder's. Embed with an encoder (BERT and its relatives, T5's encoder) or with a decoder alone"
        )
    return AutoModel
