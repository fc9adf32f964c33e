"""Read rows of csv and tsv files, and check header, delimiter and quotes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from aisle.data.rows import Problem, Row, is_unicode
from aisle.data.text_files import TextFormat, encoding_advice, open_text
from aisle.data.tsv_lines import OpenQuoteError, TsvLines
from aisle.errors import DataError

__all__ = ["csv_rows", "not_in_encoding", "refuse_duplicates"]

# The largest limit that a C long holds on every platform; the default of 128 KiB refuses long descriptions.
_CSV_FIELD_LIMIT = 2**31 - 1


def csv_rows(path: Path, text: TextFormat, *, tabs: bool = False) -> Iterator[Row]:
    """Yield the rows of a csv file.

    Args:
        path: Path of the file.
        text: Format of the file.
        tabs: Whether the file is a tsv, which is always delimited by tabs, and may have quotes of its texts.

    Raises:
        DataError: The header is missing, has a different encoding or delimiter, or names a column twice;
            a quote is never closed.
    """
    csv.field_size_limit(_CSV_FIELD_LIMIT)
    source, number = str(path), 0
    with open_text(path, newline="", encoding=text.encoding) as stream:
        first = stream.readline()
        said = re.fullmatch(r"sep=(.)[\r\n]*", first)
        given = None if tabs else text.delimiter
        delimiter = given or (said[1] if said else "\t" if tabs else ",")
        above = 1 if said else 0
        lines: Iterator[str] = stream if said else chain([first], stream)
        unquoted = TsvLines(lines) if tabs else None
        lines = unquoted or lines
        # strict: without it `"15" Laptop"` silently loses its first inner quote.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header = _header(path, reader, text, delimiter)
        if given is None and not said and len(header) == 1:
            _refuse_other_delimiter(path, header[0], delimiter, reader)
        width = len(header)
        while True:
            line = reader.line_num + above + 1
            try:
                fields = next(reader) if unquoted is None else _tsv_fields(reader, unquoted, width)
            except StopIteration:
                return
            except csv.Error as error:
                _refuse_open_quote(path, error, line, text, delimiter)
                number += 1
                yield Row(source, number, {}, line, Problem("is not valid csv", str(error)))
                continue
            if not fields:
                continue
            number += 1
            if len(fields) != width:
                reason = f"the header has {width} fields and the row another number"
                yield Row(source, number, {}, line, Problem(reason, f"{len(fields)} fields: {fields}"))
            elif not is_unicode("".join(fields)):
                yield Row(source, number, {}, line, not_in_encoding(fields, text.encoding))
            else:
                yield Row(source, number, dict(zip(header, fields, strict=True)), line)


def _tsv_fields(reader: Iterator[list[str]], lines: TsvLines, width: int) -> list[str]:
    """Return the fields of a row of a tsv file: as csv, or as they are written.

    Raises:
        csv.Error: It is neither.
    """
    lines.begin_record(width)
    try:
        fields = next(reader)
    except OpenQuoteError:
        return lines.as_written() or []
    except csv.Error:
        written = lines.as_written()
        if written is None:
            raise
        return written
    return fields if len(fields) == width else lines.as_written() or fields


def not_in_encoding(found: str | list[str], encoding: str) -> Problem:
    """Return the problem of a row with bytes that are not valid in the encoding."""
    if encoding != "utf-8":
        return Problem(f"is not valid {encoding}", found)
    broken = found if isinstance(found, str) else next(field for field in found if not is_unicode(field))
    return Problem("is not valid UTF-8", found, note=f". {encoding_advice(broken)}")


def _header(path: Path, reader: Iterator[list[str]], text: TextFormat, delimiter: str) -> list[str]:
    """Return the column names of a csv file; leading blank lines are skipped."""
    try:
        header = next((fields for fields in reader if fields), [])
    except csv.Error as error:
        _refuse_open_quote(path, error, 1, text, delimiter)
        if "NUL" not in str(error):
            raise DataError(f"{path}, line 1: the header is not valid csv: {error}.") from None
        # Python 3.10 refuses NUL, which UTF-16 contains; later versions read it.
        header = ["\0"]
    if not any(name.strip() for name in header):
        raise DataError(f"{path}: there is no header; the first line must name the columns.")
    whole = "".join(header)
    if not is_unicode(whole) or "\0" in whole:
        if text.encoding != "utf-8":
            raise DataError(f"{path}, line 1: the header is not {text.encoding}. Give another --encoding.")
        raise DataError(f"{path}, line 1: the header is not UTF-8. {encoding_advice(whole)}")
    refuse_duplicates(path, header)
    return header


def _refuse_other_delimiter(path: Path, header: str, delimiter: str, rows: Iterator[list[str]]) -> None:
    """Raise if the only column name contains another delimiter, so that it is several names."""
    counts = {mark: header.count(mark) for mark in ";\t|,"}
    other = max(counts, key=lambda mark: counts[mark])
    if not counts[other]:
        return
    flag = "tab" if other == "\t" else f"'{other}'"
    names = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}
    mend = f"give --delimiter {flag}"
    if delimiter == "\t":
        mend = f"name the file .csv, for .tsv has tabs, and {mend}"
    usual = names.get(delimiter, delimiter)
    message = f"{path}, line 1: the fields are separated by {names[other]}, not by {usual}; {mend}."
    try:
        line = delimiter.join(next(rows, []))
    except csv.Error:
        line = ""
    comma = None if other == "," else re.search(r"(?<![0-9,])[0-9]+,[0-9]{1,2}(?![0-9,])", line)
    if comma is not None:
        message += (
            f" Numbers such as {comma.group()!r} have a decimal comma and would be texts: write them with a "
            f"point, {comma.group().replace(',', '.')!r}."
        )
    raise DataError(message)


def refuse_duplicates(path: Path, columns: Sequence[str]) -> None:
    """Check that column names are unique.

    Raises:
        DataError: A name occurs twice.
    """
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: the header names {', '.join(map(repr, twice))} more than once; names must be unique."
        )


def _refuse_open_quote(path: Path, error: csv.Error, line: int, text: TextFormat, delimiter: str) -> None:
    """Raise if the csv error comes from a quoted field that runs to the end of the file."""
    if "unexpected end of data" not in str(error):
        return
    with open_text(path, newline="", encoding=text.encoding) as stream:
        # Read leniently, the open field is the last of the row; the newlines in it show where it began.
        reader = csv.reader(islice(stream, line - 1, None), delimiter=delimiter)
        swallowed = next(reader)[-1].rstrip("\r\n")
        last = line - 1 + reader.line_num
    began = last - len(swallowed.splitlines()) + 1 if swallowed else last
    raise DataError(
        f"{path}, line {began:,}: a quote opens a field here and is never closed; close or double it."
    )
