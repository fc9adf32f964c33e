"""Read queries and judgements (qrels) from TREC, BEIR and plain tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from aisle.data.column_aliases import JUDGED_LABEL, JUDGED_PRODUCT_ID, QUERY_FILE_ID, QUERY_FILE_TEXT
from aisle.data.files import has_format, iter_rows
from aisle.data.labels import LabelReader, map_advice
from aisle.data.rows import Problem, Row, id_text, place, require_columns, shorten, text_problem
from aisle.data.text_files import PLAIN_TEXT, TextFormat, open_text
from aisle.errors import DataError

__all__ = ["read_qrels", "read_queries"]

_ID_FLAGS = {"query id": "--query_id_column", "product id": "--id_column"}
_TREC_FIELDS = ("query_id", "iteration", "product_id", "relevance")


def read_queries(
    files: Iterable[Path],
    *,
    only: Iterable[str] | None = None,
    query_id_column: str | None = None,
    text_format: TextFormat = PLAIN_TEXT,
) -> dict[str, str]:
    """Return query id to text, in reading order.

    Columns: the id is query_id, query-id, _id or qid; the text is query or text.

    Args:
        files: Files in csv, tsv, jsonl (also BEIR's), json or parquet.
        only: Ids to keep, for example those with judgements; None keeps all.
        query_id_column: Column of ids; None finds it by name.
        text_format: Format of text files.

    Raises:
        DataError: A file or column is missing, a row is bad, an id has two texts, or no query is left.
    """
    kept = None if only is None else frozenset(only)
    queries: dict[str, str] = {}
    first: dict[str, str] = {}
    for row in _good_rows(iter_rows(files, text=text_format)):
        query_id = _id(row, _column(row, "query id", QUERY_FILE_ID, query_id_column))
        text = row.values[_column(row, "query", QUERY_FILE_TEXT)]
        reason = text_problem(text)
        if reason is not None:
            raise DataError(f"{_where(row)}: the query {reason}: {shorten(text)}.")
        if queries.setdefault(query_id, str(text)) != text:
            raise DataError(
                f"{_where(row)}: query {query_id!r} is {shorten(text)}, but {shorten(queries[query_id])} in "
                f"{first[query_id]}; an id has one text."
            )
        first.setdefault(query_id, _where(row))
    if kept is not None:
        queries = {query_id: text for query_id, text in queries.items() if query_id in kept}
    if not queries:
        raise DataError(
            "No query is left: the files hold none" + (" with judgements." if only is not None else ".")
        )
    return queries


def read_qrels(
    files: Iterable[Path],
    *,
    label_map: Mapping[str, float] | None = None,
    query_id_column: str | None = None,
    product_id_column: str | None = None,
    text_format: TextFormat = PLAIN_TEXT,
    log: Callable[[str], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Return query id to product id to relevance, in reading order.

    It reads TREC files (four fields and no header: query, iteration, document, relevance), BEIR's tsv, and
    any table with a query_id, a product_id and a relevance, score, label or esci_label. Rows with a blank or
    null label are left out as not judged yet, so a list to judge can be filled in bit by bit.

    Args:
        files: Files in csv, tsv, jsonl, json or parquet; a file with another extension, and a tsv whose first
            line is a TREC line, is read as TREC.
        label_map: Label to relevance; None if the labels are finite numbers. A number below 0, which TREC
            gives to spam and to unjudged documents, counts as 0: not relevant.
        query_id_column: Column of query ids, in files with column names; None finds it by name.
        product_id_column: Column of product ids, in files with column names; None finds it by name.
        text_format: Format of text files.
        log: Called with a line about blank labels, and a line about labels below 0.

    Raises:
        DataError: A file or column is missing, a row is bad, or a product has two relevances for a query.
    """
    qrels: dict[str, dict[str, float]] = {}
    first: dict[tuple[str, str], str] = {}
    readers: dict[str, LabelReader] = {}
    negative = blank = 0
    for row in _good_rows(_judgement_rows(files, text_format)):
        query_id = _id(row, _column(row, "query id", QUERY_FILE_ID, query_id_column))
        product_id = _id(row, _column(row, "product id", JUDGED_PRODUCT_ID, product_id_column))
        label = _column(row, "relevance", JUDGED_LABEL)
        if _is_blank(row.values[label]):
            blank += 1
            continue
        if label not in readers:
            readers[label] = LabelReader(label, label_map=label_map, highest=None)
        below = label_map is None and _is_below_zero(row.values[label])
        negative += below
        relevance = 0.0 if below else readers[label].read(row.values[label])
        if isinstance(relevance, Problem):
            raise DataError(
                f"{_where(row)}: {relevance.reason}: {shorten(relevance.found)}.{_map_hint(relevance)}"
            )
        known = qrels.setdefault(query_id, {}).setdefault(product_id, relevance)
        if known != relevance:
            raise DataError(
                f"{_where(row)}: product {product_id!r} is judged {relevance:g} for query {query_id!r}, but "
                f"{known:g} in {first[query_id, product_id]}; keep one of the two."
            )
        first.setdefault((query_id, product_id), _where(row))
    if not qrels:
        found = f": the label is blank in all rows ({blank:,})" if blank else ""
        raise DataError(f"The judgement files hold no judgements{found}; at least one is needed.")
    if blank and log is not None:
        log(f"judgements with a blank label, which are left out as not judged yet: {blank:,}")
    if negative and log is not None:
        log(f"judgements with a label below 0, which count as not relevant: {negative:,}")
    return qrels


def _is_blank(label: object) -> bool:
    """Return whether a label is null or blank text."""
    return label is None or (isinstance(label, str) and not label.strip())


def _is_below_zero(label: object) -> bool:
    """Return whether a label is a finite number below 0."""
    if not isinstance(label, int | float | str):
        return False
    try:
        return -math.inf < float(label) < 0
    except (ValueError, OverflowError):
        return False


def _judgement_rows(files: Iterable[Path], text_format: TextFormat) -> Iterator[Row]:
    for path in files:
        if _is_trec(path, text_format.encoding):
            yield from _trec_rows(path, text_format.encoding)
        else:
            yield from iter_rows([path], text=text_format)


def _is_trec(path: Path, encoding: str) -> bool:
    name = path.name.lower()
    if not has_format(name):
        return True
    if not name.endswith((".tsv", ".tsv.gz")) or not path.is_file():
        return False
    with open_text(path, newline="\n", encoding=encoding) as stream:
        fields = stream.readline().split()
    return len(fields) == len(_TREC_FIELDS) and fields[-1].lstrip("-").replace(".", "", 1).isdigit()


def _trec_rows(path: Path, encoding: str) -> Iterator[Row]:
    number = 0
    with open_text(path, newline="\n", encoding=encoding) as stream:
        for line, text in enumerate(stream, start=1):
            fields = text.split()
            if not fields:
                continue
            number += 1
            if len(fields) == len(_TREC_FIELDS):
                yield Row(str(path), number, dict(zip(_TREC_FIELDS, fields, strict=True)), line)
            else:
                reason = "a TREC line has 4 fields: query, iteration, document, relevance"
                yield Row(str(path), number, {}, line, Problem(reason, text.rstrip()))


def _good_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows; the first bad row is an error, because every judgement counts."""
    for row in rows:
        if row.problem is not None:
            raise DataError(f"{_where(row)}: {row.problem.reason}: {shorten(row.problem.found)}.")
        yield row


def _column(row: Row, role: str, names: Collection[str], wanted: str | None = None) -> str:
    if wanted is not None and tuple(row.values) != _TREC_FIELDS:
        require_columns(row, [wanted])
        return wanted
    for name in names:
        if name in row.values:
            return name
    flag = _ID_FLAGS.get(role)
    named = f"; name another with {flag}" if flag else ""
    raise DataError(
        f"{row.source}: there is no {role} column; its name is one of {', '.join(names)}{named}. "
        f"The columns are: {', '.join(row.values)}."
    )


def _id(row: Row, column: str) -> str:
    identity = id_text(row.values[column])
    if isinstance(identity, Problem):
        raise DataError(f"{_where(row)}: {column} {identity.reason}: {shorten(identity.found)}.")
    return identity


def _where(row: Row) -> str:
    return place(row.source, row.number, row.line)


def _map_hint(problem: Problem) -> str:
    words = problem.reason.endswith("not a number")
    return f" {map_advice([str(problem.found).strip()])}" if words else ""
