"""Write files durably: checksummed, synced, never visible half-written, with the modes of the umask."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READ_BYTES = 1 << 20
"""Bytes that are read at a time for a checksum."""
WRITING = ".writing"
"""End of the name of a file that is being written."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def apply_umask(folder: Path) -> None:
    """Set the modes of a folder and everything in it to those that the umask gives new files.

    safetensors and tempfile make files that only their owner can read, so a service that runs as another
    user could not read the weights.
    """
    made = folder / ".new"
    made.mkdir()  # os.umask can only be read by setting it, for all threads
    mode = made.stat().st_mode & 0o777
    made.rmdir()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; when the block ends, the new file takes the place of `path` in one step.

    Readers see the old file or the whole new one. After an error the old file stays and the new
    one is removed.

    Raises:
        OSError: The system refuses to write.
    """
    beside = path.with_name(f".{path.name}{WRITING}")
    try:
        yield beside
        sync(beside)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """Write a text file in one step, as `replacing` does; line ends stay as they are."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step, as `replacing` does."""
    with replacing(path) as beside:
        beside.write_bytes(content)
