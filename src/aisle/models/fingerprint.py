"""Fingerprint: a hash of everything that determines an embedding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from aisle.io.durable import file_sha256
from aisle.models.heads import SavedHead, fingerprint_parts
from aisle.models.modules_file import read_json
from aisle.models.st_files import lower_cases
from aisle.types.encoder_settings import CrossEncoderSettings, EncoderSettings

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)
# Keys of a tokenizer's configuration that change its tokens; keys on its origin are left out.
TOKENIZER_KEYS = (
    "tokenizer_class",
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "add_prefix_space",
    "add_bos_token",
    "add_eos_token",
    "auto_map",
    "legacy",
    "split_special_tokens",
    "additional_special_tokens",
    "extra_special_tokens",
    "truncation_side",
    "pad_token",
    "unk_token",
    "cls_token",
    "sep_token",
    "bos_token",
    "eos_token",
)
# Keys of an adapter's configuration that do not change its output: path of its base, training settings.
ADAPTER_KEYS_LEFT_OUT = (
    "base_model_name_or_path",
    "revision",
    "peft_version",
    "inference_mode",
    "task_type",
    "auto_mapping",
    "lora_dropout",
    "ensure_weight_tying",
    "runtime_config",
)


def fingerprint_of(
    *,
    base_dir: Path,
    model_dir: Path,
    adapter: bool,
    settings: EncoderSettings | CrossEncoderSettings,
    heads: Sequence[SavedHead] = (),
) -> str:
    """Return the fingerprint of a tower, 64 hexadecimal digits.

    It covers the base model's weights, architecture and code; the adapter's configuration and weights, DoRA's
    magnitudes and whole trained layers included; the heads; the tokenizer; and pooling, prompts, maximum
    length and normalisation. Two towers with the same fingerprint give the same embeddings, and two
    cross-encoders with the same fingerprint the same scores.

    Args:
        base_dir: Folder of the base model's weights.
        model_dir: Folder of the run, or of the base model itself.
        adapter: Whether `model_dir` contains an adapter of the base model.
        settings: Settings of the encoder or cross-encoder.
        heads: Modules after the pooling, without the normalisation at the end, which is in `settings`.
    """
    parts: dict[str, object] = {"settings": asdict(settings)}
    parts["base"] = {path.name: file_sha256(path) for path in sorted(base_dir.glob("*.safetensors"))}
    parts["architecture"] = _architecture(base_dir)
    if adapter:
        config = json.loads((model_dir / "adapter_config.json").read_text(encoding="utf-8"))
        parts["adapter_config"] = {
            # PEFT writes sets in any order.
            key: sorted(value, key=str) if isinstance(value, list) else value
            for key, value in config.items()
            if key not in ADAPTER_KEYS_LEFT_OUT and value is not None
        }
        parts["adapter"] = file_sha256(model_dir / "adapter_model.safetensors")
    if heads:  # a model without heads keeps its fingerprint from before heads existed
        parts["heads"] = fingerprint_parts(heads)
    parts["code"] = [_code(folder) for folder in dict.fromkeys((base_dir, model_dir))]
    parts["tokenizer"] = _tokenizer(model_dir) or _tokenizer(base_dir)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _tokenizer(folder: Path) -> dict[str, object]:
    parts: dict[str, object] = {
        name: file_sha256(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()
    }
    path = folder / "tokenizer_config.json"
    if parts:
        parts["lower_case"] = lower_cases(folder)
    if parts and path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        parts["config"] = {key: config.get(key) for key in TOKENIZER_KEYS}
    return parts


def refers_to_code(folder: Path) -> bool:
    """Return whether the model or the tokenizer in a folder is made by Python code in the folder.

    Raises:
        ModelError: A configuration is not JSON.
    """
    return any(read_json(folder / name).get("auto_map") for name in ("config.json", "tokenizer_config.json"))


def _code(folder: Path) -> dict[str, str]:
    """Return the hashes of a repository's Python code; empty if its configuration refers to no code."""
    if not refers_to_code(folder):
        return {}
    return {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*.py"))}


def _architecture(base_dir: Path) -> object:
    path = base_dir / "config.json"
    if not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    unstable = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")
    return {key: value for key, value in config.items() if key not in unstable}
