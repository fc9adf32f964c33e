"""Read rows from local files: csv, tsv, jsonl, json and parquet; text files also as .gz.

Text is UTF-8 unless a `TextFormat` names another encoding. A row that cannot be read is yielded with its
`problem`, so that one pass finds every bad row; a file that cannot be read is an error.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from aisle.data.arrow_rows import declared_types, table_rows
from aisle.data.csv_rows import csv_rows, not_in_encoding, refuse_duplicates
from aisle.data.file_formats import FORMATS, file_format, has_format, is_untyped
from aisle.data.json_array import json_array, read_start, refuse_broken_text
from aisle.data.rows import Problem, Row, is_unicode
from aisle.data.saved_sets import refuse_saved
from aisle.data.text_files import PLAIN_TEXT, TextFormat, open_text
from aisle.errors import DataError
from aisle.types.sequences import as_sequence

__all__ = [
    "FORMATS",
    "expand_files",
    "file_format",
    "fill_columns",
    "has_format",
    "is_untyped",
    "iter_rows",
]

_PARQUET_BATCH = 4096
_JSONL_PEEK = 1000


def expand_files(patterns: Iterable[str]) -> list[Path]:
    """Return the files that match names, globs (also `**`) and folders: sorted, each once.

    A folder matches every file below it that is not hidden and has an extension that can be read.

    Raises:
        DataError: A pattern matches nothing, or a file has an extension that cannot be read.
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
    # Try the name itself first: `offers[1].csv` can be a file, and is also a glob.
    names = [path] if path.is_file() else map(Path, glob.glob(str(path), recursive=True))
    files = [file for file in names if file.is_file()]
    for file in files:
        file_format(file)
    return files


def iter_rows(files: Iterable[Path], *, fill: bool = True, text: TextFormat = PLAIN_TEXT) -> Iterator[Row]:
    """Yield the rows of files in order, streamed; only a `.json` file with an object is read whole.

    Args:
        files: Files of any of `FORMATS`.
        fill: Whether JSON objects get null for columns that they lack and other objects have.
        text: Format of text files.

    Raises:
        DataError: A file is missing, empty, damaged or of an unknown format; a header is missing, is not
            UTF-8 or names a column twice; a quote is never closed.
    """
    for path in files:
        form = file_format(path)
        _require_content(path)
        if form == "parquet":
            yield from _parquet_rows(path)
        elif form.startswith("jsonl"):
            yield from _jsonl_rows(path, text.encoding, fill=fill)
        elif form.startswith("json"):
            yield from _json_rows(path, text.encoding, fill=fill)
        else:
            yield from csv_rows(path, text, tabs=form.startswith("tsv"))


def _require_content(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty.")


def _jsonl_rows(path: Path, encoding: str, *, fill: bool) -> Iterator[Row]:
    rows = _jsonl_objects(path, encoding)
    yield from fill_columns(rows) if fill else rows


def fill_columns(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows with null for the columns that they lack and that any of the first 1,000 rows has."""
    head = list(islice(rows, _JSONL_PEEK))
    blank = dict.fromkeys(name for row in head for name in row.values)
    for row in chain(head, rows):
        if row.problem is None and not blank.keys() <= row.values.keys():
            yield row._replace(values={**blank, **row.values})
        else:
            yield row


def _jsonl_objects(path: Path, encoding: str) -> Iterator[Row]:
    source, number = str(path), 0
    with open_text(path, newline="\n", encoding=encoding) as stream:
        for line, text in enumerate(stream, start=1):
            if text.isspace():
                continue
            number += 1
            if not is_unicode(text):
                yield Row(source, number, {}, line, not_in_encoding(text.rstrip(), encoding))
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


def _json_rows(path: Path, encoding: str, *, fill: bool) -> Iterator[Row]:
    source = str(path)
    with open_text(path, newline="\n", encoding=encoding) as stream:
        start = read_start(source, stream)
        is_array = start.lstrip().startswith("[")
        items = (
            json_array(source, stream, start) if is_array else _data_of_object(path, start + stream.read())
        )
        rows = (_object_row(source, number, None, item) for number, item in enumerate(items, start=1))
        yield from fill_columns(rows) if fill else rows


def _data_of_object(path: Path, text: str) -> Iterable[object]:
    """Return the items of a JSON object's `data`, which is read whole."""
    refuse_broken_text(str(path), text, line=1)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        hint = (
            " A file with one object per line is jsonl: name it .jsonl." if error.msg == "Extra data" else ""
        )
        raise DataError(f"{path}, line {error.lineno:,}: the file is not JSON: {error.msg}.{hint}") from None
    except ValueError as error:  # an integer of more digits than Python reads
        raise DataError(f"{path}: the file is not JSON: {error}.") from None
    items = value.get("data") if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise DataError(f'{path}: a .json file must hold an array of objects, or {{"data": [...]}}.')
    return items


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = 1
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            refuse_duplicates(path, names)
            columns = [name for name in names if not name.startswith("__index_level_")]
            declared = declared_types(file.schema_arrow)
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH, columns=columns):
                yield from table_rows(batch, source=str(path), first=first, declared=declared)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: the file is damaged or is not parquet: {reason}") from None
