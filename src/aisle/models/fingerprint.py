"""A hash of everything that decides an embedding."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from aisle.durable import file_sha256
from aisle.models.encoder import EncoderSettings

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
# What of a tokenizer's configuration changes its tokens; where it lay and who wrote it do not.
TOKENIZER_KEYS = (
    "tokenizer_class",
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "add_prefix_space",
    "add_bos_token",
    "add_eos_token",
    "truncation_side",
    "pad_token",
    "unk_token",
    "cls_token",
    "sep_token",
    "bos_token",
    "eos_token",
)
# What of an adapter's configuration changes its output; where its base lies differs between machines.
ADAPTER_KEYS = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")


def fingerprint_of(*, base_dir: Path, model_dir: Path, adapter: bool, settings: EncoderSettings) -> str:
    """Return the fingerprint of an encoder, 64 hexadecimal digits.

    It covers the base model's weights and architecture, the adapter's weights and configuration, the
    tokenizer, pooling, prompts, maximum length and normalisation. Two encoders with the same fingerprint
    give the same embeddings.

    Args:
        base_dir: folder of the base model's weights.
        model_dir: folder of the run, or of the base model itself.
        adapter: whether `model_dir` holds an adapter over the base.
        settings: what is not in the weights.
    """
    parts: dict[str, object] = {"settings": asdict(settings)}
    parts["base"] = {path.name: file_sha256(path) for path in sorted(base_dir.glob("*.safetensors"))}
    parts["architecture"] = _architecture(base_dir)
    if adapter:
        config = json.loads((model_dir / "adapter_config.json").read_text(encoding="utf-8"))
        parts["adapter_config"] = {key: config.get(key) for key in ADAPTER_KEYS}
        parts["target_modules"] = sorted(config.get("target_modules") or [])
        parts["adapter"] = file_sha256(model_dir / "adapter_model.safetensors")
    parts["tokenizer"] = _tokenizer(model_dir) or _tokenizer(base_dir)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _tokenizer(folder: Path) -> dict[str, object]:
    parts: dict[str, object] = {
        name: file_sha256(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()
    }
    path = folder / "tokenizer_config.json"
    if parts and path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        parts["config"] = {key: config.get(key) for key in TOKENIZER_KEYS}
    return parts


def _architecture(base_dir: Path) -> object:
    path = base_dir / "config.json"
    if not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    unstable = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")
    return {key: value for key, value in config.items() if key not in unstable}
