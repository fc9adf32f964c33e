"""Rows, the problems that make a row bad, and the report of bad rows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from aisle.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "BadRow",
    "BadRowLog",
    "BadRows",
    "OnBadRow",
    "Problem",
    "Row",
    "find_column",
    "id_text",
    "is_unicode",
    "missing_column",
    "place",
    "require_columns",
    "shorten",
    "text_problem",
]

OnBadRow = Literal["error", "skip"]
"""What to do with bad rows: `error` reads to the end, reports them all and stops; `skip` leaves them out."""

_SHOWN = 10
_SHORT = 80


class Problem(NamedTuple):
    """Reason why a row cannot be used; equal reasons are counted together. `note` follows the value."""

    reason: str
    found: object
    note: str = ""


class Row(NamedTuple):
    """A row of a source. It is a named tuple, which is three times as fast to make as a frozen dataclass.

    Attributes:
        source: File as the user named it, or id of a data set.
        number: Number of the data row from 1; headers and blank lines do not count.
        values: Column to value; columns that a JSON object lacks are None.
        line: Line of the file where the row begins, from 1; None for a format without lines.
        problem: Why the row could not be read, with empty `values`; None for a good row.
        declared: Column to the type that the source declares (parquet, the Hub); None if it declares none.
        class_names: Column to the names of its numbers 0, 1, ... if `datasets` recorded any.
    """

    source: str
    number: int
    values: dict[str, object]
    line: int | None = None
    problem: Problem | None = None
    declared: Mapping[str, pa.DataType] | None = None
    class_names: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True)
class BadRow:
    """A bad row in the report; `found` is a shortened repr."""

    source: str
    number: int
    line: int | None
    reason: str
    found: str

    def __str__(self) -> str:
        return f"{place(self.source, self.number, self.line)}: {self.reason}: {self.found}"


@dataclass(frozen=True)
class BadRows:
    """Number of bad rows, with the reasons.

    Attributes:
        total: Number of bad rows.
        read: Number of rows read, good and bad.
        by_reason: Reason to count, most frequent first.
        first: First ten bad rows in reading order.
    """

    total: int
    read: int
    by_reason: Mapping[str, int]
    first: tuple[BadRow, ...]

    def __str__(self) -> str:
        if not self.total:
            return f"all {self.read:,} rows are good"
        lines = [f"{self.total:,} of {self.read:,} rows are bad:"]
        lines += [f"  {count:,} x {reason}" for reason, count in self.by_reason.items()]
        lines.append("the first of them:" if self.total > len(self.first) else "they are:")
        lines += [f"  {bad}" for bad in self.first]
        return "\n".join(lines)


class BadRowLog:
    """Count bad rows while a source is read."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: list[BadRow] = []

    def add(self, row: Row, problem: Problem) -> None:
        """Count one bad row."""
        self._counts[problem.reason] = self._counts.get(problem.reason, 0) + 1
        if len(self._first) < _SHOWN:
            found = shorten(problem.found) + problem.note
            self._first.append(BadRow(row.source, row.number, row.line, problem.reason, found))

    @property
    def total(self) -> int:
        """Bad rows so far."""
        return sum(self._counts.values())

    def report(self, *, good: int) -> BadRows:
        """Return the report so far, given the number of good rows."""
        by_reason = dict(sorted(self._counts.items(), key=lambda item: -item[1]))
        return BadRows(self.total, good + self.total, by_reason, tuple(self._first))

    def settle(self, on_bad_row: OnBadRow, *, good: int) -> BadRows:
        """Return the report after all rows are read, or refuse the data.

        Raises:
            DataError: No row is good, or some are bad and `on_bad_row` is `error`.
        """
        report = self.report(good=good)
        if not report.read:
            raise DataError(
                "The data has no rows; at least one is needed. Check that the right files are named."
            )
        if report.total and on_bad_row == "error":
            raise DataError(f"{report}\nFix these rows, or leave them out with --on_bad_row skip.")
        if not good:
            raise DataError(f"No good row is left.\n{report}")
        return report

    def first_good(self, rows: Iterable[Row], on_bad_row: OnBadRow) -> tuple[Row, Iterator[Row]]:
        """Return the first good row, and an iterator over all rows from it on; bad rows before are counted.

        Raises:
            DataError: Every row is bad.
        """
        rest = iter(rows)
        for row in rest:
            if row.problem is None:
                return row, chain([row], rest)
            self.add(row, row.problem)
        self.settle(on_bad_row, good=0)
        raise AssertionError("settle refuses data without a good row")


def place(source: str, number: int, line: int | None) -> str:
    """Return the place of a row for messages: `file.csv, row 3 (line 5)`."""
    return f"{source}, row {number:,}" + ("" if line is None else f" (line {line:,})")


def shorten(value: object) -> str:
    """Return the repr of a value, shortened to about 80 characters of text."""
    if isinstance(value, str) and len(value) > _SHORT:
        return f"{value[:_SHORT]!r}... ({len(value):,} characters)"
    text = repr(value)
    return text if len(text) <= 2 * _SHORT else f"{text[: 2 * _SHORT]}..."


def text_problem(value: object) -> str | None:
    """Return why a value is not a usable text (null, not text, blank, not Unicode), or None if it is."""
    if not isinstance(value, str):
        return "is null" if value is None else "is not text"
    if not value or value.isspace():
        return "is blank"
    return None if value.isascii() or is_unicode(value) else "is not valid Unicode"


def is_unicode(text: str) -> bool:
    """Return whether a text can be written as UTF-8; lone surrogates cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def id_text(value: object) -> str | Problem:
    """Return an id as a string, or the problem: only texts and integers are ids.

    A float is refused, because integers become floats in a column with nulls, and `1e6` is not `1000000`.
    """
    if isinstance(value, str):
        problem = text_problem(value)
        return value if problem is None else Problem(problem, value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return Problem("is null" if value is None else "is neither text nor an integer", value)


def missing_column(source: str, column: str, columns: Iterable[str], *, flag: str | None = None) -> DataError:
    """Return the error for a column that a source lacks.

    Args:
        source: File, or flag that names the column.
        column: Name of the missing column.
        columns: Columns of the source.
        flag: Flag that names the column, unless `source` is that flag.
    """
    there = list(columns)
    near = difflib.get_close_matches(column, there, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    mend = f" Name the right one with {flag}." if flag else ""
    return DataError(
        f"{source}: there is no column {column!r}.{hint}{mend} The columns are: {', '.join(there)}."
    )


def require_columns(row: Row, columns: Iterable[str | None], *, flag: str | None = None) -> None:
    """Check that a row has columns; None among them is ignored.

    Args:
        row: First row of a source.
        columns: Columns that it must have.
        flag: Flag that names them; None if several flags do.

    Raises:
        DataError: A column is missing.
    """
    for column in columns:
        if column is not None and column not in row.values:
            raise missing_column(row.source, column, row.values, flag=flag)


def find_column(row: Row, wanted: str | None, candidates: Sequence[str]) -> str | None:
    """Return `wanted`, or else the first of the candidates that the row has, or else None.

    Raises:
        DataError: The row lacks the column that is wanted.
    """
    if wanted is None:
        return next((column for column in candidates if column in row.values), None)
    require_columns(row, [wanted])
    return wanted
