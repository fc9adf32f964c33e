"""Read a JSON array an item at a time, so that a file of many gigabytes takes little memory."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from aisle.data.rows import is_unicode
from aisle.data.text_files import encoding_advice
from aisle.errors import DataError

__all__ = ["json_array", "read_start", "refuse_broken_text"]

READ_CHARACTERS = 2**20
"""Characters to read at a time; an item that is longer is read in parts that double."""
_SPACE = re.compile(r"[ \t\r\n]*")
_CUT_OFF = 16
"""An error this close to the end of what is read can come from a value that goes on: `tru`, `\\u00`."""


@dataclass
class _Window:
    """The part of a stream that is in memory."""

    source: str
    stream: io.TextIOBase
    text: str
    at: int = 0
    line: int = 1
    """Line of the file at `at`, from 1."""
    decoder: json.JSONDecoder = field(default_factory=json.JSONDecoder)

    def more(self) -> bool:
        """Read on, dropping what is behind `at`; return False at the end of the file."""
        read = self.stream.read(max(READ_CHARACTERS, len(self.text) - self.at))
        if not read:
            return False
        self.text, self.at = self.text[self.at :] + read, 0
        line = self.line + self.text.count("\n", 0, len(self.text) - len(read))
        refuse_broken_text(self.source, read, line=line)
        return True

    def error(self, reason: str, *, at: int | None = None, cut: bool = False) -> DataError:
        """Return the error at a place of the text; `cut` says that the file ends there."""
        line = self.line + self.text.count("\n", self.at, self.at if at is None else at)
        end = " The file ends here: it may be truncated." if cut else ""
        return DataError(f"{self.source}, line {line:,}: the file is not JSON: {reason}.{end}")

    def advance(self, end: int) -> None:
        """Move to a later place of the text."""
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def next_character(self) -> str:
        """Return the next character that is not white space, and stay before it; empty at the end."""
        while True:
            self.advance(_SPACE.match(self.text, self.at).end())  # type: ignore[union-attr]  # matches always
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> object:
        """Return the JSON value that starts at `at`, and go behind it."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                open_text = error.msg.startswith("Unterminated string")
                if (open_text or error.pos >= len(self.text) - _CUT_OFF) and self.more():
                    continue
                cut = open_text or error.pos >= len(self.text)
                raise self.error(error.msg, at=error.pos, cut=cut) from None
            except ValueError as error:  # an integer of more digits than Python reads
                # Digits at the end of what is read can be the start of a float, which may have as many.
                if self.text[-1].isdigit() and self.more():
                    continue
                raise self.error(str(error)) from None
            except RecursionError:
                raise self.error("lists or objects are nested too deeply") from None
            is_closed = isinstance(value, dict | list | str)
            # A number at the end of what is read can go on: 12, 12., 12.5e.
            if not is_closed and end >= len(self.text) - _CUT_OFF and self.more():
                continue
            self.advance(end)
            return value


def read_start(source: str, stream: io.TextIOBase) -> str:
    """Return the first characters of a stream, up to the first that is not white space and usually more.

    Raises:
        DataError: The text is not valid in the file's encoding.
    """
    text = ""
    while read := stream.read(READ_CHARACTERS):
        text += read
        if not read.isspace():
            break
    refuse_broken_text(source, text, line=1)
    return text


def json_array(source: str, stream: io.TextIOBase, start: str) -> Iterator[object]:
    """Yield the items of a JSON array.

    Args:
        source: Name of the file, for messages.
        stream: Stream of the rest of the text.
        start: Characters that were read already, see `read_start`.

    Raises:
        DataError: The text is not a JSON array, or it is truncated.
    """
    window = _Window(source, stream, start)
    if window.next_character() != "[":
        raise window.error("Expecting '['")
    window.advance(window.at + 1)
    if window.next_character() == "]":
        window.advance(window.at + 1)
    else:
        while True:
            window.next_character()
            yield window.value()
            mark = window.next_character()
            if mark not in {",", "]"}:
                raise window.error("Expecting ',' or ']'", cut=not mark)
            window.advance(window.at + 1)
            if mark == "]":
                break
    if window.next_character():
        raise window.error("Extra data after the array")


def refuse_broken_text(source: str, text: str, *, line: int) -> None:
    """Refuse text with bytes that are not valid in the file's encoding.

    Args:
        source: Name of the file, for messages.
        text: Text to check.
        line: Line of the file at its start.

    Raises:
        DataError: A line has such bytes.
    """
    if is_unicode(text):
        return
    lines = text.split("\n")
    at = next(number for number, part in enumerate(lines) if not is_unicode(part))
    raise DataError(f"{source}, line {line + at:,}: the text is not UTF-8. {encoding_advice(lines[at])}")
