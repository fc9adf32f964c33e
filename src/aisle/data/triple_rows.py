"""Rows of triples: an anchor, a positive and one or more negatives, in columns of any names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from aisle.data.column_aliases import PAIR_HARD_NEGATIVES, PAIR_PRODUCT, PAIR_QUERY
from aisle.data.pair_columns import PairColumns
from aisle.data.pair_shapes import negative_columns
from aisle.data.rows import Problem, Row, find_column, shorten
from aisle.data.unread_numbers import NO_LABELS, is_id_column
from aisle.errors import DataError

__all__ = [
    "ANCHOR",
    "NEGATIVES",
    "POSITIVE",
    "TripleColumns",
    "find_triple_columns",
    "triple_columns",
    "triple_rows",
]

ANCHOR, POSITIVE, NEGATIVES = "anchor", "positive", "negatives"
"""Columns of the rows that `triple_rows` and `join_nli` yield."""


@dataclass(frozen=True)
class TripleColumns:
    """Columns of triples; each column of negatives holds a text, or a list of texts."""

    anchor: str
    positive: str
    negatives: tuple[str, ...]
    by_position: bool = False
    """Whether the columns were taken in their order, because none has a usual name."""

    def __str__(self) -> str:
        read = f"anchor: {self.anchor}, positive: {self.positive}, negatives: {', '.join(self.negatives)}"
        return f"{read}; taken by position" if self.by_position else read


def triple_columns(wanted: PairColumns) -> PairColumns:
    """Return the columns of the rows of pairs that triples become; every pair is a positive.

    Args:
        wanted: Columns that the user named; ids and teacher scores keep their columns.
    """
    return replace(wanted, query=ANCHOR, product=POSITIVE, label=NO_LABELS, hard_negatives=NEGATIVES)


def find_triple_columns(row: Row, wanted: PairColumns) -> TripleColumns:
    """Return the columns of triples.

    A column that the user did not name is found by its usual name. If no column has a usual name, columns
    are taken by position, as sentence-transformers does: anchor, positive, then the negatives. Columns with
    names of ids are not among them.

    Args:
        row: First good row.
        wanted: Columns that the user named.

    Raises:
        DataError: A column is missing, there is no column of negatives, or a column that would be taken by
            its position holds no words.
    """
    anchor = find_column(row, wanted.query, PAIR_QUERY)
    positive = find_column(row, wanted.product, PAIR_PRODUCT)
    listed = find_column(row, wanted.hard_negatives, PAIR_HARD_NEGATIVES)
    negatives = (listed,) if listed is not None else negative_columns(row)
    if anchor is None and positive is None and not negatives:
        texts = {name: value for name, value in row.values.items() if not is_id_column(name)}
        if len(texts) > 2 and all(isinstance(value, str) for value in texts.values()):
            _refuse_numbers(row, texts)
            anchor, positive, *rest = texts
            return TripleColumns(anchor, positive, tuple(rest), by_position=True)
    if anchor is None or positive is None or not negatives:
        missing = "anchors" if anchor is None else "positives" if positive is None else "negatives"
        raise DataError(_advice(row, missing))
    return TripleColumns(anchor, positive, negatives)


def _refuse_numbers(row: Row, texts: Mapping[str, object]) -> None:
    """Refuse to take a column by its position if it holds no words, as ids and dates do not.

    Raises:
        DataError: The first value of a column has no letter.
    """
    for name, value in texts.items():
        text = str(value)
        if text.strip() and not any(map(str.isalpha, text)):
            raise DataError(
                f"{row.source}: no column has a usual name of triples, and {name!r} holds no words but "
                f"{shorten(value)}, so the columns are not taken by their position. Name them with "
                "--query_column, --product_column and --hard_negatives_column, or remove the column. The "
                f"columns are: {', '.join(row.values)}."
            )


_NAMES = {
    "anchors": (", ".join(PAIR_QUERY), "--query_column"),
    "positives": (", ".join(PAIR_PRODUCT), "--product_column"),
    "negatives": (
        f"negative, negative_1, negative_2 ..., {', '.join(PAIR_HARD_NEGATIVES)}",
        "--hard_negatives_column",
    ),
}


def _advice(row: Row, missing: str) -> str:
    names, flag = _NAMES[missing]
    other = " Pairs without negatives are --train_format pairs." if missing == "negatives" else ""
    return (
        f"{row.source}: --train_format triples needs a column of {missing}; its name is one of "
        f"{names}. Name another with {flag}.{other} The columns are: {', '.join(row.values)}."
    )


def triple_rows(
    rows: Iterator[Row], *, wanted: PairColumns, log: Callable[[str], None] = lambda _: None
) -> Iterator[Row]:
    """Yield the rows with the columns of `triple_columns`; a row without a negative is a bad row.

    Args:
        rows: Rows of one or more sources; each source has its own columns.
        wanted: Columns that the user named.
        log: Function called with the columns in use, again if a source has others.

    Raises:
        DataError: A column is missing.
    """
    source: str | None = None
    columns: TripleColumns | None = None
    for row in rows:
        if row.problem is not None:
            yield row
            continue
        if columns is None or row.source != source:
            before, columns, source = columns, find_triple_columns(row, wanted), row.source
            if columns != before:
                log(f"triples of {source}: {columns}")
        yield _collected(row, columns)


def _collected(row: Row, columns: TripleColumns) -> Row:
    negatives = [text for column in columns.negatives for text in _texts(row.values.get(column))]
    if not negatives:
        cells = [row.values.get(column) for column in columns.negatives]
        names = " and ".join(columns.negatives)
        verb = "is" if len(columns.negatives) == 1 else "are"
        return row._replace(
            values={}, problem=Problem(f"{names} {verb} empty; a triple has a negative", cells)
        )
    values = {
        **row.values,
        ANCHOR: row.values.get(columns.anchor),
        POSITIVE: row.values.get(columns.positive),
        NEGATIVES: negatives,
    }
    return row._replace(values=values, declared=None)


def _texts(cell: object) -> list[object]:
    """Return the texts of a cell: a text, a list of texts, or in csv a JSON list; none if it is empty."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            listed = json.loads(cell)
            if isinstance(listed, list):
                return listed
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return []
    return cell if isinstance(cell, list) else [cell]
