"""Open text files in the encoding and with the csv delimiter that the user names."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aisle.data.rows import shorten
from aisle.errors import ConfigError, DataError

__all__ = ["PLAIN_TEXT", "TextFormat", "encoding_advice", "open_text"]

_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
_UTF_8 = "utf-8"


@dataclass(frozen=True)
class TextFormat:
    """Format of text files: delimiter and encoding.

    Attributes:
        delimiter: Character between the fields of csv; None is the comma, or the character that a first line
            such as `sep=;` names. In tsv it is always the tab.
        encoding: Python's name of the encoding; UTF-8 is read with or without a byte order mark.
    """

    delimiter: str | None = None
    encoding: str = _UTF_8

    @classmethod
    def of(cls, delimiter: str | None, encoding: str) -> TextFormat:
        """Return the format for the values of --delimiter and --encoding.

        Raises:
            ConfigError: The delimiter is not one character (or `tab`), or the encoding is not known.
        """
        if delimiter is not None:
            delimiter = _NAMES.get(delimiter, delimiter)
            if len(delimiter) != 1 or delimiter in '"\r\n':
                raise ConfigError(
                    f"--delimiter: must be one character, such as ';' or '|', or tab, found {delimiter!r}"
                )
        try:
            name = codecs.lookup(encoding).name
            "".encode(name)
        except (LookupError, ValueError):
            raise ConfigError(
                f"--encoding: {encoding!r} is not a text encoding; use for example utf-8, cp1252 or utf-16"
            ) from None
        return cls(delimiter, _UTF_8 if name == "utf-8-sig" else name)


PLAIN_TEXT = TextFormat()
"""UTF-8 with commas."""


@contextmanager
def open_text(path: Path, *, newline: str, encoding: str = _UTF_8) -> Iterator[io.TextIOBase]:
    """Open a text file, with gzip for `.gz`; bytes that are not valid in the encoding become lone surrogates.

    Raises:
        DataError: The file cannot be read or has a different encoding, or its gzip stream is damaged or
            truncated.
    """
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    codec = "utf-8-sig" if encoding == _UTF_8 else encoding
    # UTF-16 and UTF-32 cannot represent single invalid bytes.
    errors = "strict" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
    try:
        with opener(path, "rt", encoding=codec, errors=errors, newline=newline) as stream:
            yield stream
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: the gzip stream is damaged or truncated ({error}). Download the file again."
        ) from None
    except UnicodeError as error:
        raise DataError(
            f"{path}: the file is not valid {encoding} ({error}). Give its encoding with --encoding."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read: {error.strerror or error}.") from None


def encoding_advice(text: str) -> str:
    """Return advice on a text that is not UTF-8 although it was read as UTF-8."""
    if "\0" in text:
        return "Save the file as UTF-8, or give --encoding utf-16."
    read = text.encode(_UTF_8, "surrogateescape").decode("cp1252", "replace")
    return f"It reads as {shorten(read)} in cp1252: save the file as UTF-8, or give --encoding cp1252."
