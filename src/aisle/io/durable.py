"""Durable files: checksummed, on the disk, never seen half-written, with the modes that the umask gives."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

READ_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def apply_umask(folder: Path) -> None:
    """Give a folder and all in it the modes that the umask gives new files, whatever library wrote them.

    safetensors and tempfile make files that their owner alone reads: who trains as one user and serves as
    another would not find the weights.
    """
    made = folder / ".new"
    made.mkdir()  # to ask for the umask would set it for all threads
    mode = made.stat().st_mode & 0o777
    made.rmdir()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)


def replace_text(path: Path, text: str) -> None:
    """Write a text file in one go: a reader sees the old one or the new one, whole; line ends stay."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file in one go: a reader sees the old one or the new one, whole."""
    beside = path.with_name(f".{path.name}.writing")
    beside.write_bytes(content)
    sync(beside)
    os.replace(beside, path)
