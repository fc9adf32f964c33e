"""API keys: read from a file, compared in constant time, never logged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from aisle.errors import ConfigError

__all__ = ["MIN_KEY_CHARACTERS", "ApiKeys", "read_api_keys"]

MIN_KEY_CHARACTERS = 16
"""Fewest characters of a key; shorter keys can be guessed."""


class ApiKeys:
    """The keys that a server accepts; only their hashes are kept.

    Args:
        keys: The keys.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [_hash(key) for key in keys]

    def accepts(self, key: str) -> bool:
        """Return whether a key is among the keys. The time depends on neither of them."""
        given = _hash(key)
        matches = [hmac.compare_digest(given, known) for known in self._hashes]
        return any(matches)

    def __len__(self) -> int:
        return len(self._hashes)

    def __repr__(self) -> str:
        return f"ApiKeys({len(self)} keys)"


def read_api_keys(path: Path) -> ApiKeys:
    """Return the keys of a file: a key on each line; blank lines and lines that begin with # are ignored.

    Raises:
        ConfigError: The file cannot be read, has no key, or a key is too short or has a space.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api_key_file {path}: cannot be read as UTF-8 text: {error}") from None
    keys = {number: line for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
    if not keys:
        raise ConfigError(f"--api_key_file {path}: has no key; put a key on each line")
    for number, key in keys.items():
        if len(key) < MIN_KEY_CHARACTERS or not key.isascii() or " " in key:
            raise ConfigError(
                f"--api_key_file {path}: line {number}: a key has {MIN_KEY_CHARACTERS} or more ASCII "
                "characters and no space; make keys with: openssl rand -hex 32"
            )
    return ApiKeys(keys.values())


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
