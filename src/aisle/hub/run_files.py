"""Prepare the files of a finished run for upload: without local paths and without tokens."""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from aisle.errors import HubError, ModelError
from aisle.reporting.model_card import CARD, base_model_name, card_charts, read_card, read_settings

logger = logging.getLogger(__name__)

_UNSENT = (".*", "*.tmp", "*.log", "log.jsonl", "*.pt", "*.pth", "*.pkl", "*.bin", "events.out.tfevents.*")
_WEIGHTS = ("adapter_config.json", "adapter_model.safetensors", "config.json", "model*.safetensors*")
TOWERS = ("query", "product")
"""Folders of a run of two towers; each has its own aisle.json."""
WEIGHTS = (
    *(*_WEIGHTS, "router_config.json"),
    *(f"{tower}/{name}" for tower in TOWERS for name in ("aisle.json", *_WEIGHTS)),
)
"""Files that determine which model a repository has: remove those that a new model does not have."""
_SETTINGS = ("adapter_config.json", "aisle.json", "config.json", "config.yaml", "metrics.json")
_SETTINGS_OF_OTHERS = ("tokenizer_config.json", "config_sentence_transformers.json", "sentence_*_config.json")
_TOKEN = re.compile(rb"\b(?:hf|api_org)_(?:oauth_|jwt_)?[A-Za-z0-9]{20,}")


def portable_files(run_dir: Path) -> dict[str, Path | bytes]:
    """Return the files to upload by path in the repository: the file, or its content if that is changed."""
    encoder = _read_encoder(run_dir)
    names = _portable_names(run_dir, encoder)
    files: dict[str, Path | bytes] = {}
    for path in _sendable(run_dir):
        relative = path.relative_to(run_dir).as_posix()
        is_settings = matches(path.name, _SETTINGS + _SETTINGS_OF_OTHERS)
        changed = _rewritten(path, names) if is_settings else None
        files[relative] = path if changed is None else changed
    files[CARD] = _card(run_dir, names).encode()
    return files


def _read_encoder(run_dir: Path) -> dict[str, Any]:
    folders = (run_dir, *(run_dir / tower for tower in TOWERS))
    files = [path for folder in folders for path in folder.glob("*.safetensors")]
    weights = [path for path in files if matches(path.name, _WEIGHTS)]
    if not (run_dir / "aisle.json").is_file() or not weights:
        missing = "weights" if (run_dir / "aisle.json").is_file() else "aisle.json"
        raise HubError(
            f"{run_dir}: only a finished run can be uploaded, and this folder has no {missing}; give the"
            " --output_dir of a run that finished"
        )
    encoder: dict[str, Any] = _parsed(run_dir / "aisle.json")
    return encoder


def _sendable(run_dir: Path) -> list[Path]:
    """Return the files in the run folder and in the folders of modules.json, and the charts of the card."""
    modules = _parsed(run_dir / "modules.json")
    folders = [run_dir / module["path"] for module in modules if module.get("path")]
    folders += [run_dir / tower for tower in TOWERS if (run_dir / tower / "aisle.json").is_file()]
    found = [path for path in run_dir.iterdir() if path.is_file()]
    found += [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    found += card_charts(run_dir)
    return sorted({path for path in found if not matches(path.name, _UNSENT)})


def _portable_names(run_dir: Path, encoder: Mapping[str, Any]) -> dict[str, str]:
    """Return the replacement of each local path: the Hub id of the base model, the folder name of the run."""
    names = {str(path): run_dir.resolve().name for path in (run_dir.resolve(), run_dir.absolute())}
    base = _parsed(run_dir / "adapter_config.json").get("base_model_name_or_path")
    for local in (encoder["base_model"], base):
        if local:
            names[str(local)] = base_model_name(encoder)
    for tower in encoder.get("towers", ()):
        if "base_model" in tower:
            names[str(tower["base_model"])] = base_model_name(tower)
    if base and not encoder.get("base_model_hub_id"):
        logger.warning(
            "the base model is not on the Hub: users of the adapter need %r",
            base_model_name(encoder),
        )
    return names


def _rewritten(path: Path, names: Mapping[str, str]) -> bytes | None:
    """Return the content of a settings file without local paths; None if it has none."""
    value = _parsed(path)
    changed = _portable(value, names)
    if path.name == "adapter_config.json":
        changed["base_model_name_or_path"] = names[value["base_model_name_or_path"]]
    if changed == value:
        return None
    if path.suffix == ".yaml":
        return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True).encode()
    return (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode()


def _portable(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: item if "prompt" in str(key) else _portable(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item, names) for item in value]
    if isinstance(value, str) and os.path.isabs(value) and len(Path(value).parts) > 2:
        return names.get(value, Path(value).name)
    return value


def _card(run_dir: Path, names: Mapping[str, str]) -> str:
    try:
        card = read_card(run_dir)
    except ModelError as error:
        raise HubError(f"{error}, so the run was not uploaded") from None
    for local, portable in names.items():
        card = card.replace(local, portable) if os.path.isabs(local) else card
    return card


def _parsed(path: Path) -> Any:
    try:
        return read_settings(path)
    except ModelError as error:
        raise HubError(f"{error}, so the run was not uploaded") from None


def refuse_secrets(run_dir: Path, files: Mapping[str, Path | bytes], secret: str) -> None:
    """Refuse files that contain a Hub token.

    Args:
        run_dir: Path of the run, for the message.
        files: Files to upload.
        secret: Token of this upload; empty if there is none.

    Raises:
        HubError: If a file contains the token, or text in the form of a token.
    """
    for name, content in files.items():
        if name.endswith(".safetensors"):
            continue
        data = content if isinstance(content, bytes) else content.read_bytes()
        if (secret and secret.encode() in data) or _TOKEN.search(data):
            raise HubError(
                f"{run_dir / name}: this file contains a Hub token, so nothing was uploaded; remove it"
                " from the file, and revoke it if others could read the file"
            )


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a path matches any of the patterns."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
