"""Upload a finished run to the Hub in a single commit, without local paths."""

from __future__ import annotations

import logging
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: httpx's or httpx2's, by release
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from aisle.errors import HubError
from aisle.hub.run_files import WEIGHTS, matches, portable_files, refuse_secrets
from aisle.reporting.model_card import (
    CARD,
    fill_repository,
    is_signed_card,
    signed_card,
)

logger = logging.getLogger(__name__)

TIMEOUTS = (15.0, 300.0, 300.0, 15.0)
"""Seconds to connect, to read, to write, and to wait for a free connection; the client has no limits."""
_FAILURES = (HTTPError, OSError, ValueError, RuntimeError, KeyError)
"""Errors of an upload: xet and LFS raise OSError or RuntimeError, malformed answers the other two."""


def push_run(
    run_dir: Path,
    *,
    repo_id: str | None,
    token: str | None = None,
    private: bool = False,
    overwrite_card: bool = False,
    commit_message: str | None = None,
) -> str:
    """Upload a finished run and return the URL of the model.

    Checkpoints, logs, tracker folders and hidden files are not uploaded. Local paths are replaced in the
    upload, and stay in the run.

    Args:
        run_dir: Path of the run.
        repo_id: `owner/name`, or `name` for your own account; None is the name of the folder.
        token: Hub token; None uses `hf auth login` or HF_TOKEN. It is never logged or shown.
        private: Whether to create a private repository; an existing one must then be private.
        overwrite_card: Whether to replace a card that was edited on the Hub; otherwise it is kept, with a
            warning.
        commit_message: Message of the commit.

    Raises:
        HubError: If the folder is not a finished run, a file contains a token, the repository is public
            although `private` is set, or the upload failed.
    """
    files = portable_files(run_dir)
    name = repo_id or run_dir.resolve().name
    secret, reason = _token(token)
    refuse_secrets(run_dir, files, secret)
    if reason is None:
        try:
            validate_repo_id(name)
            with _bounded_session():
                return _upload(
                    HfApi(token=secret),
                    name,
                    files,
                    private=private,
                    overwrite_card=overwrite_card,
                    message=commit_message,
                )
        except _FAILURES as error:
            reason = _reason(error, name)
    # Raised outside the handler: the cause and its request contain the token.
    message = _advice(run_dir, name, reason, private=private)
    raise HubError(message.replace(secret, "***") if secret else message)


def _token(token: str | None) -> tuple[str, str | None]:
    """Return the token, empty if there is none, and the problem with it, or None."""
    try:
        secret = token or get_token() or ""
    except _FAILURES as error:
        return "", f"the token of this machine cannot be read ({type(error).__name__})"
    if not secret:
        return "", "there is no token: log in with `hf auth login`, set HF_TOKEN, or give --hub_token"
    if not re.fullmatch(r"[!-~]+", secret):
        return secret, "the token has a space, a line break or another character that tokens never have"
    return secret, None


def _upload(
    api: HfApi,
    name: str,
    files: Mapping[str, Path | bytes],
    *,
    private: bool,
    overwrite_card: bool,
    message: str | None,
) -> str:
    # None instead of False keeps the default of an organisation with private repositories.
    url = api.create_repo(name, private=private or None, exist_ok=True)
    if private and not api.repo_info(url.repo_id).private:
        raise HubError(
            f"--hub_private: {url.repo_id} exists and is public, so nothing was uploaded; make it "
            "private in its settings on the Hub, or give another --hub_model_id"
        )
    sent = {path: _named(content, path, url.repo_id) for path, content in files.items()}
    before = _sizes(api, url.repo_id, revision=None)
    if CARD in before and not overwrite_card and _edited(api, url.repo_id, sent[CARD]):
        logger.warning(
            "%s of %s was edited on the Hub, so it is kept and the card of this run is not uploaded; "
            "--hub_overwrite_card replaces it",
            CARD,
            url.repo_id,
        )
        del sent[CARD]
    stale = [path for path in before if matches(path, WEIGHTS) and path not in sent]
    operations: list[Any] = [CommitOperationDelete(path) for path in stale]
    operations += [CommitOperationAdd(path, content) for path, content in sent.items()]
    commit = api.create_commit(url.repo_id, operations, commit_message=message or "Upload an aisle run")
    after = _sizes(api, url.repo_id, revision=commit.oid)
    wrong = [path for path, content in sent.items() if after.get(path) != _size(content)]
    if wrong:
        raise OSError(
            f"after the commit, these files on the Hub are missing or have another size: {', '.join(wrong)}"
        )
    return str(url)


def _named(content: Path | bytes, path: str, repo_id: str) -> Path | bytes:
    if path != CARD or not isinstance(content, bytes):
        return content
    return signed_card(fill_repository(content.decode(), repo_id)).encode()


def _edited(api: HfApi, repo_id: str, ours: Path | bytes) -> bool:
    """Return whether the card on the Hub differs from both the last uploaded card and the new one."""
    with tempfile.TemporaryDirectory(prefix="aisle-card-") as folder:
        there = Path(api.hf_hub_download(repo_id, CARD, local_dir=folder)).read_bytes()
    return there != ours and not is_signed_card(there.decode(errors="replace"))


def _sizes(api: HfApi, repo_id: str, *, revision: str | None) -> dict[str, int]:
    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    return {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


@contextmanager
def _bounded_session() -> Iterator[None]:
    """Set time limits for the requests of the client while the block runs."""
    session = get_session()
    before = session.timeout
    session.timeout = TIMEOUTS
    try:
        yield
    finally:
        session.timeout = before


def _reason(error: BaseException, name: str) -> str:
    """Return the reason why an upload failed, as a clause."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return _reason(error.__cause__, name)
    if isinstance(error, HFValidationError):
        return f"{name!r} is not a name that the Hub allows: {_first_line(str(error))}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub must not be used"
    endpoint = HfApi().endpoint
    if isinstance(error, HfHubHTTPError):
        status, answer = error.response.status_code, _first_line(error.server_message or str(error))
        reasons = {
            401: f"the Hub did not accept the token for {name} (401); log in again or give another one",
            403: f"the token may not write to {name} (403: {answer}); give one with write access there",
            404: f"the Hub has no repository {name} that this token may see (404)",
        }
        fault = "has a fault" if status >= 500 else "refused the request"
        return reasons.get(status, f"the Hub at {endpoint} {fault} ({status}: {answer})")
    if isinstance(error, HTTPError):
        return f"the Hub at {endpoint} gave no answer ({type(error).__name__}: {_first_line(str(error))})"
    return f"{_first_line(str(error))} ({type(error).__name__})"


def _advice(run_dir: Path, name: str, reason: str | None, *, private: bool) -> str:
    try:
        validate_repo_id(name)
    except HFValidationError:
        name = "OWNER/NAME"
    command = f"aisle push {shlex.quote(str(run_dir))} --hub_model_id {name}{' --hub_private' * private}"
    return f"the upload failed: {reason}. The run is complete in {run_dir}; upload it later with: {command}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
