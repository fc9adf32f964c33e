"""Lines of a tsv file for a csv reader, and which of them have quotes that are not those of csv.

Some programs quote fields of a tsv as in csv, others write each text as it is, also one that begins with a
quote. A line is read as it is written if it has all fields of the header without regard to quotes, and read
as csv it is an error, has another number of fields, or runs on into a next line that has all fields too.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["OpenQuoteError", "TsvLines"]


class OpenQuoteError(Exception):
    """A field runs on into the next line, although both lines have all fields."""


class TsvLines:
    """Iterator over lines, a record after the other.

    Args:
        lines: Lines of the file from the header on.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._ahead: str | None = None
        self._record: list[str] = []
        self._width = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line of the record.

        Raises:
            OpenQuoteError: The line begins the next record.
        """
        line = next(self._lines) if self._ahead is None else self._ahead
        self._ahead = None
        if len(self._record) == 1 and self._has_all(self._record[0]) and self._has_all(line):
            self._ahead = line
            raise OpenQuoteError
        if len(self._record) < 2:
            self._record.append(line)
        return line

    def begin_record(self, width: int) -> None:
        """Begin a record.

        Args:
            width: Number of the header's fields.
        """
        self._record, self._width = [], width

    def as_written(self) -> list[str] | None:
        """Return the fields of the record without regard to quotes; None if it is not a line with all."""
        if len(self._record) != 1 or not self._has_all(self._record[0]):
            return None
        return self._record[0].rstrip("\r\n").split("\t")

    def _has_all(self, line: str) -> bool:
        return line.count("\t") == self._width - 1
