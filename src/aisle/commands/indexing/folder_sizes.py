"""Size of a folder on disk, in bytes and in readable form."""

from __future__ import annotations

from pathlib import Path


def bytes_in(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes; a file with several hard links counts once."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({(status.st_dev, status.st_ino): status.st_size for status in found}.values())


def shown_bytes(size: float) -> str:
    """Return a size in readable form: "512 B", "1.2 KB" or "3.4 GB"."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
