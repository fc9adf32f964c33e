"""Upload of a finished run to the Hub, in one commit, with nothing of this machine in it."""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: httpx's or httpx2's, by release
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from aisle.errors import HubError, ModelError
from aisle.model_card import CARD, base_model_name, card_charts, fill_repository, read_card, read_settings

logger = logging.getLogger(__name__)

TIMEOUTS = (15.0, 300.0, 300.0, 15.0)
"""Seconds to connect, to read, to write, and to wait for a free connection; the client's own is forever."""
_UNSENT = (".*", "*.tmp", "*.log", "log.jsonl", "*.pt", "*.pth", "*.pkl", "*.bin", "events.out.tfevents.*")
_WEIGHTS = ("adapter_config.json", "adapter_model.safetensors", "config.json", "model*.safetensors*")
_SETTINGS = ("adapter_config.json", "aisle.json", "config.json", "config.yaml", "metrics.json")
_SETTINGS_OF_OTHERS = ("tokenizer_config.json", "config_sentence_transformers.json", "sentence_*_config.json")
_TOKEN = re.compile(rb"\b(?:hf|api_org)_(?:oauth_|jwt_)?[A-Za-z0-9]{20,}")
_FAILURES = (HTTPError, OSError, ValueError, RuntimeError, KeyError)
"""Uploads through xet or LFS fail with OSError or RuntimeError, answers that make no sense with the last."""


def push_run(
    run_dir: Path,
    *,
    repo_id: str | None,
    token: str | None = None,
    private: bool = False,
    commit_message: str | None = None,
) -> str:
    """Return the URL of the model that a finished run was uploaded to.

    Checkpoints, logs, trackers' folders and hidden files stay here; paths of this machine are replaced in
    what is sent, never in the run itself.

    Args:
        run_dir: the run.
        repo_id: `owner/name`, or `name` for one of your own; the folder's name when None.
        token: the one of `hf auth login` or HF_TOKEN when None; it is never logged or shown.
        private: create the repository as a private one; one that exists stays as it is.
        commit_message: what the commit is called.

    Raises:
        HubError: the folder is not a finished run, a file holds a token, or the upload failed.
    """
    files = _portable_files(run_dir)
    name = repo_id or run_dir.resolve().name
    secret, reason = _token(token)
    _refuse_secrets(run_dir, files, secret)
    if reason is None:
        try:
            validate_repo_id(name)
            with _bounded_session():
                return _upload(HfApi(token=secret), name, files, private=private, message=commit_message)
        except _FAILURES as error:
            reason = _reason(error, name)
    # Raised out here, so that neither the cause nor its request, which carries the token, hangs on it.
    message = _advice(run_dir, name, reason)
    raise HubError(message.replace(secret, "***") if secret else message)


def _portable_files(run_dir: Path) -> dict[str, Path | bytes]:
    """Return what is sent: path in the repository to the file, or to its content where that differs."""
    encoder = _read_encoder(run_dir)
    names = _portable_names(run_dir, encoder)
    files: dict[str, Path | bytes] = {}
    for path in _sendable(run_dir):
        relative = path.relative_to(run_dir).as_posix()
        changed = _rewritten(path, names) if _matches(relative, _SETTINGS + _SETTINGS_OF_OTHERS) else None
        files[relative] = path if changed is None else changed
    files[CARD] = _card(run_dir, names).encode()
    return files


def _read_encoder(run_dir: Path) -> dict[str, Any]:
    weights = [path for path in run_dir.glob("*.safetensors") if _matches(path.name, _WEIGHTS)]
    if not (run_dir / "aisle.json").is_file() or not weights:
        missing = "weights" if (run_dir / "aisle.json").is_file() else "aisle.json"
        raise HubError(
            f"{run_dir}: only a finished run can be uploaded, and this folder has no {missing}; give the"
            " --output_dir of a run that went to its end"
        )
    encoder: dict[str, Any] = _parsed(run_dir / "aisle.json")
    return encoder


def _sendable(run_dir: Path) -> list[Path]:
    """The files of the run's own folder, of those that Sentence Transformers reads, and the card's charts."""
    modules = _parsed(run_dir / "modules.json")
    folders = [run_dir / module["path"] for module in modules if module.get("path")]
    found = [path for path in run_dir.iterdir() if path.is_file()]
    found += [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    found += card_charts(run_dir)
    return sorted({path for path in found if not _matches(path.name, _UNSENT)})


def _portable_names(run_dir: Path, encoder: Mapping[str, Any]) -> dict[str, str]:
    """Local path to what takes its place: of the base model its Hub id, of the run its folder's name."""
    names = {str(path): run_dir.resolve().name for path in (run_dir.resolve(), run_dir.absolute())}
    base = _parsed(run_dir / "adapter_config.json").get("base_model_name_or_path")
    for local in (encoder["base_model"], base):
        if local:
            names[str(local)] = base_model_name(encoder)
    if base and not encoder.get("base_model_hub_id"):
        logger.warning(
            "the base model is not on the Hub: whoever uses the adapter must have %r",
            base_model_name(encoder),
        )
    return names


def _rewritten(path: Path, names: Mapping[str, str]) -> bytes | None:
    """Return the content of a settings file without local paths; None where there are none."""
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


def _refuse_secrets(run_dir: Path, files: Mapping[str, Path | bytes], secret: str) -> None:
    for name, content in files.items():
        if name.endswith(".safetensors"):
            continue
        data = content if isinstance(content, bytes) else content.read_bytes()
        if (secret and secret.encode() in data) or _TOKEN.search(data):
            raise HubError(
                f"{run_dir / name}: this file holds a Hub token, so nothing was uploaded; take it out of the"
                " file, and revoke it if others could read the file"
            )


def _token(token: str | None) -> tuple[str, str | None]:
    """Return the token, empty where there is none, and what is wrong with it, None where nothing is."""
    try:
        secret = token or get_token() or ""
    except _FAILURES as error:
        return "", f"the token of this machine cannot be had ({type(error).__name__})"
    if not secret:
        return "", "there is no token: log in with `hf auth login`, set HF_TOKEN, or give --hub_token"
    if not re.fullmatch(r"[!-~]+", secret):
        return secret, "the token has a space, a line break or a letter that no token has"
    return secret, None


def _upload(
    api: HfApi, name: str, files: Mapping[str, Path | bytes], *, private: bool, message: str | None
) -> str:
    # None rather than False: it leaves the default of an organisation whose repositories are private.
    url = api.create_repo(name, private=private or None, exist_ok=True)
    sent = {path: _named(content, path, url.repo_id) for path, content in files.items()}
    before = _sizes(api, url.repo_id, revision=None)
    stale = [path for path in before if _matches(path, _WEIGHTS) and path not in sent]
    operations: list[Any] = [CommitOperationDelete(path) for path in stale]
    operations += [CommitOperationAdd(path, content) for path, content in sent.items()]
    commit = api.create_commit(url.repo_id, operations, commit_message=message or "Upload an aisle run")
    after = _sizes(api, url.repo_id, revision=commit.oid)
    wrong = [path for path, content in sent.items() if after.get(path) != _size(content)]
    if wrong:
        raise OSError(f"after the commit the Hub does not hold all that was sent: {', '.join(wrong)}")
    return str(url)


def _named(content: Path | bytes, path: str, repo_id: str) -> Path | bytes:
    if path != CARD or not isinstance(content, bytes):
        return content
    return fill_repository(content.decode(), repo_id).encode()


def _sizes(api: HfApi, repo_id: str, *, revision: str | None) -> dict[str, int]:
    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    return {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


@contextmanager
def _bounded_session() -> Iterator[None]:
    """Give the client's requests time limits for a while."""
    session = get_session()
    before = session.timeout
    session.timeout = TIMEOUTS
    try:
        yield
    finally:
        session.timeout = before


def _reason(error: BaseException, name: str) -> str:
    """Return in one sentence why an upload failed."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return _reason(error.__cause__, name)
    if isinstance(error, HFValidationError):
        return f"{name!r} is not a name that the Hub allows: {_first_line(str(error))}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub may not be asked"
    endpoint = HfApi().endpoint
    if isinstance(error, HfHubHTTPError):
        status, answer = error.response.status_code, _first_line(error.server_message or str(error))
        said = {
            401: f"the Hub did not accept the token for {name} (401); log in again or give another one",
            403: f"the token may not write to {name} (403: {answer}); give one with write access there",
            404: f"the Hub has no repository {name} that this token may see (404)",
        }
        fault = "has a fault" if status >= 500 else "refused the request"
        return said.get(status, f"the Hub at {endpoint} {fault} ({status}: {answer})")
    if isinstance(error, HTTPError):
        return f"the Hub at {endpoint} gave no answer ({type(error).__name__}: {_first_line(str(error))})"
    return f"{_first_line(str(error))} ({type(error).__name__})"


def _advice(run_dir: Path, name: str, reason: str | None) -> str:
    try:
        validate_repo_id(name)
    except HFValidationError:
        name = "OWNER/NAME"
    command = f"aisle push {shlex.quote(str(run_dir))} --hub_model_id {name}"
    return f"the upload failed: {reason}. The run is whole in {run_dir}; upload it later with: {command}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
