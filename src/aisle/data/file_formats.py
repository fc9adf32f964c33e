"""File formats by extension."""

from __future__ import annotations

from pathlib import Path

from aisle.errors import DataError

__all__ = ["FORMATS", "file_format", "has_format", "is_untyped"]

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "csv.gz", "tsv.gz", "jsonl.gz", "json.gz")
"""Extensions of the files that can be read."""


def file_format(path: Path) -> str:
    """Return the format of a file by its extension, one of `FORMATS`.

    Raises:
        DataError: The extension is unknown.
    """
    for extension in FORMATS:
        if path.name.lower().endswith(f".{extension}"):
            return extension
    raise DataError(f"{path}: this extension cannot be read; use one of {', '.join(FORMATS)}.")


def has_format(name: str) -> bool:
    """Return whether a file name has an extension that can be read."""
    return name.lower().endswith(tuple(f".{extension}" for extension in FORMATS))


def is_untyped(source: str) -> bool:
    """Return whether a source is csv or tsv, where every value is text."""
    return source.lower().removesuffix(".gz").endswith((".csv", ".tsv"))
