"""Rows out of local files: csv, tsv, jsonl, json and parquet, each of the texts also as .gz.

Text is UTF-8, with or without a byte order mark. A row that cannot be read is yielded with its `problem`,
so that one reading finds them all; a file that cannot be read is an error.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from aisle.data.arrow_rows import declared_types, table_rows
from aisle.data.file_formats import FORMATS, file_format, has_format, is_untyped
from aisle.data.rows import Problem, Row, is_unicode
from aisle.data.saved_sets import refuse_saved
from aisle.errors import DataError
from aisle.sequences import as_sequence

__all__ = ["FORMATS", "expand_files", "file_format", "has_format", "is_untyped", "iter_rows", "open_text"]

# The largest limit that a C long holds on every platform; the default of 128 KiB refuses long descriptions.
_CSV_FIELD_LIMIT = 2**31 - 1
_PARQUET_BATCH = 4096
_JSONL_PEEK = 1000


def expand_files(patterns: Iterable[str]) -> list[Path]:
    """Return the files that names, globs (`**` too) and folders stand for: sorted, each once.

    A folder stands for every file below it that is not hidden and can be read by its extension.

    Raises:
        DataError: a pattern matches nothing, or a file has an extension that cannot be read.
    """
    files: set[Path] = set()
    for pattern in as_sequence(patterns, "files", DataError):
        if not (found := _expand(pattern)):
            raise DataError(
                f"{pattern}: no file matches. Give a file, a glob or a folder with {', '.join(FORMATS)}."
            )
        files.update(found)
    return sorted(files)


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    refuse_saved(path)
    if path.is_dir():
        below = [file for file in path.rglob("*") if file.is_file() and has_format(file.name)]
        return [file for file in below if not any(part[0] == "." for part in file.relative_to(path).parts)]
    # A name is tried as it is first: `offers[1].csv` is a fine name and another file's glob.
    names = [path] if path.is_file() else map(Path, glob.glob(str(path), recursive=True))
    files = [file for file in names if file.is_file()]
    for file in files:
        file_format(file)
    return files


def iter_rows(files: Iterable[Path], *, fill: bool = True) -> Iterator[Row]:
    """Yield the rows of files in their order, streaming; only `.json` is read whole.

    Args:
        files: of any of `FORMATS`.
        fill: give JSON objects null for the columns that they leave out and others have.

    Raises:
        DataError: a file is missing, empty, damaged or of no known format; a header is missing, not UTF-8 or
            names a column twice; a quote is never closed.
    """
    for path in files:
        form = file_format(path)
        _require_content(path)
        if form == "parquet":
            yield from _parquet_rows(path)
        elif form.startswith("jsonl"):
            yield from _jsonl_rows(path, fill=fill)
        elif form.startswith("json"):
            yield from _json_rows(path, fill=fill)
        else:
            yield from _csv_rows(path, delimiter="\t" if form.startswith("tsv") else ",")


def _require_content(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty.")


@contextmanager
def open_text(path: Path, *, newline: str) -> Iterator[io.TextIOBase]:
    """Open a UTF-8 file, through gzip for `.gz`; bytes that are not UTF-8 arrive as lone surrogates.

    Raises:
        DataError: the file cannot be read, or its gzip stream is damaged or cut short.
    """
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=newline) as stream:
            yield stream
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: the gzip stream is damaged or cut short ({error}). Fetch the file again."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read: {error.strerror or error}.") from None


def _csv_rows(path: Path, *, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_CSV_FIELD_LIMIT)
    source, number = str(path), 0
    with open_text(path, newline="") as stream:
        # strict: without it `"15" Laptop"` silently loses its first inner quote.
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        header = _csv_header(path, reader, delimiter)
        width = len(header)
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                _refuse_open_quote(path, error, line, delimiter)
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
                yield Row(source, number, {}, line, Problem("is not valid UTF-8", fields))
            else:
                yield Row(source, number, dict(zip(header, fields, strict=True)), line)


def _csv_header(path: Path, reader: Iterator[list[str]], delimiter: str) -> list[str]:
    """Return the column names of a csv file; leading blank lines are passed over."""
    try:
        header = next((fields for fields in reader if fields), [])
    except csv.Error as error:
        _refuse_open_quote(path, error, 1, delimiter)
        # Python 3.10 refuses NUL, as UTF-16 has it; later ones read it, and it is found below.
        reason = "UTF-8. Save the file as UTF-8" if "NUL" in str(error) else f"valid csv: {error}"
        raise DataError(f"{path}, line 1: the header is not {reason}.") from None
    if not any(name.strip() for name in header):
        raise DataError(f"{path}: there is no header; the first line must name the columns.")
    if not is_unicode("".join(header)) or "\0" in "".join(header):
        raise DataError(f"{path}, line 1: the header is not UTF-8. Save the file as UTF-8.")
    _refuse_duplicates(path, header)
    return header


def _refuse_duplicates(path: Path, columns: Sequence[str]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: the header names {', '.join(map(repr, twice))} more than once; names are unique."
        )


def _refuse_open_quote(path: Path, error: csv.Error, line: int, delimiter: str) -> None:
    """Raise when the csv error is a quoted field that runs to the end of the file."""
    if "unexpected end of data" not in str(error):
        return
    with open_text(path, newline="") as stream:
        # Read leniently, the open field is the row's last: the newlines it swallowed say where it began.
        reader = csv.reader(islice(stream, line - 1, None), delimiter=delimiter)
        swallowed = next(reader)[-1].rstrip("\r\n")
        last = line - 1 + reader.line_num
    began = last - len(swallowed.splitlines()) + 1 if swallowed else last
    raise DataError(
        f"{path}, line {began:,}: a quote opens a field here and is never closed; close or double it."
    )


def _jsonl_rows(path: Path, *, fill: bool) -> Iterator[Row]:
    rows = _jsonl_objects(path)
    if not fill:
        yield from rows
        return
    head = list(islice(rows, _JSONL_PEEK))
    # Writers may leave nulls out: the first thousand objects together say which columns there are.
    blank = dict.fromkeys(name for row in head for name in row.values)
    for row in chain(head, rows):
        if row.problem is None and not blank.keys() <= row.values.keys():
            yield row._replace(values={**blank, **row.values})
        else:
            yield row


def _jsonl_objects(path: Path) -> Iterator[Row]:
    source, number = str(path), 0
    with open_text(path, newline="\n") as stream:
        for line, text in enumerate(stream, start=1):
            if text.isspace():
                continue
            number += 1
            if not is_unicode(text):
                yield Row(source, number, {}, line, Problem("is not valid UTF-8", text.rstrip()))
                continue
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                yield Row(source, number, {}, line, Problem("is not JSON", text.rstrip()))
                continue
            yield _object_row(source, number, line, value)


def _object_row(source: str, number: int, line: int | None, value: object) -> Row:
    if isinstance(value, dict):
        return Row(source, number, value, line)
    return Row(source, number, {}, line, Problem("is not a JSON object", value))


def _json_rows(path: Path, *, fill: bool) -> Iterator[Row]:
    with open_text(path, newline="\n") as stream:
        text = stream.read()
    if not is_unicode(text):
        line = next(line for line, part in enumerate(text.split("\n"), start=1) if not is_unicode(part))
        raise DataError(f"{path}, line {line:,}: the text is not UTF-8. Save the file as UTF-8.")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        hint = " One object per line is jsonl: name the file so." if error.msg == "Extra data" else ""
        raise DataError(f"{path}, line {error.lineno:,}: the file is not JSON: {error.msg}.{hint}") from None
    items = value.get("data") if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise DataError(f'{path}: a .json file holds an array of objects, or {{"data": [...]}}.')
    rows = [_object_row(str(path), number, None, item) for number, item in enumerate(items, start=1)]
    blank = dict.fromkeys(name for row in rows for name in row.values) if fill else {}
    yield from (row._replace(values={**blank, **row.values}) if row.problem is None else row for row in rows)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = 1
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _refuse_duplicates(path, names)
            columns = [name for name in names if not name.startswith("__index_level_")]
            declared = declared_types(file.schema_arrow)
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH, columns=columns):
                yield from table_rows(batch, source=str(path), first=first, declared=declared)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: this is not a parquet file, or a damaged one: {reason}") from None
