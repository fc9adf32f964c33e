"""Load a backbone from its files as a text encoder, or refuse it with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.model_source import ModelSource
from aisle.models.modules_file import module_folder, read_json

PROBE_TEXT = "a"
T5_FAMILY = ("t5", "mt5", "umt5")
"""Encoder-decoders whose encoder is loaded without the decoder, as in sentence-transformers (sentence-t5)."""


def load_backbone(source: ModelSource, *, trust_remote_code: bool = False) -> nn.Module:
    """Load a backbone in float32; of T5 and its relatives, only the encoder.

    Raises:
        ModelError: There are no safetensors weights, as in a bundle; weights of the architecture are missing;
            the model has a decoder that reads an encoder's output; or it needs a package or code that is
            missing.
    """
    backbone, info = load_pretrained(source, _text_model, trust_remote_code=trust_remote_code)
    # transformers initialises missing weights at random. No embedding depends on the pooler's.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    refuse_missing(source, backbone, missing, trust_remote_code=trust_remote_code)
    return backbone


def load_pretrained(
    source: ModelSource,
    class_of: Callable[[ModelSource, Any], Any],
    *,
    trust_remote_code: bool,
    converter: str = "AutoModel",
    **changes: Any,
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a model of transformers in float32; return it with transformers' report on its weights.

    Args:
        source: Location of the files.
        class_of: Function that returns the class to load, from the source and the configuration.
        trust_remote_code: Whether to run Python code from the model's repository.
        converter: Class of transformers that reads all weights which the model needs, for the advice on
            pickled weights.
        changes: Settings that override the configuration's; weights of another shape are then left out.

    Raises:
        ModelError: There are no safetensors weights, or the model cannot be loaded.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig

    if not list(source.path.glob("*.safetensors")):
        _refuse_bundle(source.path)
        _refuse_router(source)
        raise ModelError(
            f"{source.path}: has no *.safetensors file; aisle loads weights from safetensors only. "
            "Convert pickled weights in place, so that the files for pooling and prompts stay beside them: "
            f'python -c "from transformers import {converter} as M; d = {str(source.path)!r}; '
            'M.from_pretrained(d).save_pretrained(d)"'
        )
    try:
        config = AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code, **changes)
        model, info = class_of(source, config).from_pretrained(
            source.path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=bool(changes),
        )
    except ImportError as error:
        raise ModelError(
            f"{source.name}: needs a package that is not installed, or not in this version: {one_line(error)}"
        ) from None
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, SafetensorError) as error:
        hint = "" if trust_remote_code else code_hint(source.path)
        reason = hint or f": {one_line(error)}"
        raise ModelError(f"{source.name}: cannot be loaded as a model{reason}") from None
    loaded: nn.Module = model
    return loaded, info


def refuse_missing(
    source: ModelSource, model: nn.Module, missing: Sequence[str], *, trust_remote_code: bool
) -> None:
    """Refuse a model if weights are missing that transformers would initialise at random.

    Raises:
        ModelError: Weights are missing.
    """
    if missing:
        hint = "" if trust_remote_code else code_hint(source.path)
        raise ModelError(
            f"{source.path}: its safetensors lack {len(missing)} weights of {type(model).__name__}, "
            f"{missing[0]} for example; they belong to another architecture, or are incomplete{hint}"
        )


def _refuse_router(source: ModelSource) -> None:
    """Refuse a model of several towers that no `aisle.json` describes.

    Raises:
        ModelError: The folder has sentence-transformers' Router.
    """
    if module_folder(source.path, "Router") is None:
        return
    towers = sorted(
        {path.parent.relative_to(source.path).as_posix() for path in source.path.glob("*/*.safetensors")}
    )
    given = (
        " or ".join(f"{source.name.rstrip('/')}/{tower}" for tower in towers) or "a model of a single tower"
    )
    raise ModelError(
        f"{source.name}: is a Router of sentence-transformers, with a model for each side, and aisle reads "
        f"it by its aisle.json, which is missing. Restore that file, or give a single tower: {given}"
    )


def _refuse_bundle(folder: Path) -> None:
    """Refuse the folder of a bundle, whose graphs are no weights to load."""
    if not list(folder.glob("*.onnx")):
        return
    if (folder / "bundle.json").is_file():
        raise ModelError(
            f"{folder}: is a bundle of `aisle export`, and weights (*.safetensors) are needed; "
            "give the run or model that it was exported from"
        )
    raise ModelError(
        f"{folder}: has ONNX graphs, as a bundle of `aisle export` has, but no bundle.json and no weights "
        "(*.safetensors); restore the missing file, or export the model again"
    )


def check_reads_text(source: ModelSource, backbone: nn.Module, tokenizer: Any) -> None:
    """Refuse a backbone that does not return a vector for each of the tokenizer's tokens.

    Raises:
        ModelError: The tokenizer has tokens without an embedding in the backbone, or the backbone fails on a
            text or returns another shape.
    """
    model: Any = backbone
    try:
        rows = model.get_input_embeddings().weight.shape[0]
    except (AttributeError, NotImplementedError):
        rows = None
    if rows is not None and len(tokenizer) > rows:
        raise ModelError(
            f"{source.name}: its tokenizer has {len(tokenizer):,} tokens, but its weights have embeddings "
            f"for {rows:,} tokens. If tokens were added, resize the model's embeddings "
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
    """Return the id of a backbone's padding token; 0 if its configuration gives no id."""
    config: Any = backbone.config
    return int(config.pad_token_id or 0)


def positions(backbone: nn.Module) -> int:
    """Return the number of positions in a backbone's configuration; 0 if it gives no limit."""
    config: Any = backbone.config
    return int(getattr(config, "max_position_embeddings", None) or 0)


def vocabulary_size(backbone: nn.Module) -> int:
    """Return the number of tokens with an embedding in a backbone."""
    config: Any = backbone.config
    return int(config.vocab_size)


def longest_input(backbone: nn.Module, tokenizer: Any) -> int:
    """Return the maximum number of tokens that a backbone can read."""
    longest = positions(backbone) or tokenizer.model_max_length
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its relatives count positions from the padding index + 1.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            longest = module.num_embeddings - first
    return int(min(longest, tokenizer.model_max_length, 1_000_000))


def is_decoder(backbone: nn.Module) -> bool:
    """Return whether a backbone was trained as a language model that generates text."""
    config: Any = backbone.config
    return any("ForCausalLM" in name for name in config.architectures or ())


def code_hint(folder: Path) -> str:
    """Return advice for a model that needs Python code from its repository; empty for other models."""
    if "auto_map" not in read_json(folder / "config.json"):
        return ""
    return ". The model needs its own Python code: read the code, then give --trust_remote_code to run it"


def one_line(error: Exception) -> str:
    """Return an error's message in a single line of at most 300 characters."""
    words = " ".join(str(error).split())
    return words[:300] + "..." * (len(words) > 300) if words else type(error).__name__


def _text_model(source: ModelSource, config: Any) -> Any:
    """Return the class that loads a configuration: for T5 and its relatives, the class of T5's encoder.

    Raises:
        ModelError: The model is another kind of encoder-decoder.
    """
    from transformers import AutoModel, AutoModelForTextEncoding

    if config.model_type in T5_FAMILY:
        return AutoModelForTextEncoding
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{source.name}: {config.model_type} is an encoder with a decoder, and its token vectors come "
            "from the decoder. Use an encoder (BERT and its relatives, T5's encoder) or a decoder-only model"
        )
    return AutoModel
