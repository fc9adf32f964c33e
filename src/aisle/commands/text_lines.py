"""Read the texts of a text file, one on each line."""

from __future__ import annotations

from pathlib import Path

from aisle.errors import DataError

__all__ = ["read_lines"]


def read_lines(path: str, *, flag: str, what: str) -> list[str]:
    """Return the lines of a text file that are not blank, without white space around them.

    Args:
        path: Path of the file.
        flag: Flag that names it, for messages.
        what: A line's content, such as "query", for messages.

    Raises:
        DataError: The file is missing, is not UTF-8, or has only blank lines.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{flag} {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{flag} {path}: cannot be read as UTF-8 text: {error}") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise DataError(f"{flag} {path}: has no {what}; give a {what} on each line")
    return texts
