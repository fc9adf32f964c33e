"""Layouts of training data besides aisle's own: triples, SNLI and MNLI, and those of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain

from aisle.data.dpr_json import POSITIVES, QUESTION
from aisle.data.dpr_rows import DPR_COLUMNS, dpr_rows, refuse_dpr_without_positives
from aisle.data.nli import find_nli_columns, is_nli, join_nli
from aisle.data.pair_columns import PairColumns
from aisle.data.rows import Problem, Row, require_columns
from aisle.data.templates import TextTemplate, parse_template
from aisle.data.triple_rows import find_triple_columns, triple_columns, triple_rows
from aisle.data.unread_numbers import NO_LABELS
from aisle.errors import DataError
from aisle.types.choices import OWN_COLUMNS, TrainFormat

__all__ = ["RowFormat", "own_format", "reads_as", "row_format"]

QUERY_TEXT, GOLD_PASSAGE, HARD_NEGATIVE, TITLE = "query_text", "gold_passage", "hard_negative", "title"
"""Columns of simpletransformers' RetrievalModel."""


@dataclass(frozen=True)
class RowFormat:
    """How rows of another layout become rows of pairs.

    Attributes:
        description: Name of the layout, for people.
        columns: Columns of the resulting pairs.
        convert: Function from the rows to the rows of their pairs; a row that cannot be used has its problem.
        joins_titles: Whether titles are joined to texts with the separator token of BERT.
    """

    description: str
    columns: PairColumns
    convert: Callable[[Iterator[Row]], Iterator[Row]]
    joins_titles: bool = False


def row_format(
    row: Row,
    train_format: TrainFormat,
    *,
    wanted: PairColumns,
    text_template: str | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> RowFormat | None:
    """Return how to convert the rows of a source, or None for rows of pairs, which stay as they are.

    Args:
        row: First good row of the source.
        train_format: Format that the user named; `auto` finds it by the columns.
        wanted: Columns that the user named; `auto` then reads pairs.
        text_template: Template of a passage's text; None is the default of the format.
        log: Function called with the columns of triples, and the counts of a format that joins rows.

    Raises:
        DataError: A column of the named format is missing, or DPR's json has no positive passages.
        ConfigError: The template is malformed.
    """
    if train_format == "auto":
        named = wanted.query is not None or wanted.product is not None
        train_format = own_format(row, wanted) or ("nli" if is_nli(row) and not named else "pairs")
        if train_format == "pairs" and not named:
            refuse_dpr_without_positives(row)
    elif train_format in OWN_COLUMNS:
        require_columns(row, _COLUMNS[train_format], flag="another --train_format")
    if train_format == "triples":
        find_triple_columns(row, wanted)
        return RowFormat("triples", triple_columns(wanted), partial(triple_rows, wanted=wanted, log=log))
    if train_format == "nli":
        find_nli_columns(row, wanted)
        return RowFormat(
            "premise and entailment", triple_columns(PairColumns()), partial(join_nli, wanted=wanted, log=log)
        )
    if train_format not in OWN_COLUMNS:
        return None
    template = None if text_template is None else parse_template(text_template)
    if train_format == "dpr":
        convert = partial(dpr_rows, template=template, log=log)
        return RowFormat("DPR's json", DPR_COLUMNS, convert, joins_titles=template is None)
    return _simpletransformers(row, template)


def own_format(row: Row, wanted: PairColumns) -> TrainFormat | None:
    """Return the format with columns of its own that a row has; None if the user named columns.

    Args:
        row: First good row of a source.
        wanted: Columns that the user named.
    """
    if wanted.query is not None or wanted.product is not None:
        return None
    return next((name for name, columns in _COLUMNS.items() if set(columns) <= row.values.keys()), None)


def reads_as(row: Row, train_format: TrainFormat, *, wanted: PairColumns) -> bool:
    """Return whether a row has the columns of triples or of natural language inference.

    Args:
        row: First good row of a source.
        train_format: triples or nli.
        wanted: Columns that the user named.
    """
    try:
        (find_triple_columns if train_format == "triples" else find_nli_columns)(row, wanted)
    except DataError:
        return False
    return True


_COLUMNS: Mapping[TrainFormat, tuple[str, ...]] = {
    "dpr": (QUESTION, POSITIVES),
    "simpletransformers": (QUERY_TEXT, GOLD_PASSAGE),
}


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip()) or cell in ([], "[]")


def _simpletransformers(row: Row, template: TextTemplate | None) -> RowFormat:
    if template is None:
        template = parse_template(
            f"{{{TITLE}}} {{{GOLD_PASSAGE}}}" if TITLE in row.values else f"{{{GOLD_PASSAGE}}}"
        )
    has_negatives = HARD_NEGATIVE in row.values
    columns = PairColumns(
        query=QUERY_TEXT,
        product=GOLD_PASSAGE,
        label=NO_LABELS,
        hard_negatives=HARD_NEGATIVE if has_negatives else None,
    )

    def convert(row: Row) -> Iterator[Row]:
        if row.problem is not None:
            yield row
            return
        passage, negative = row.values.get(GOLD_PASSAGE), row.values.get(HARD_NEGATIVE)
        # A title alone is no passage: a blank passage stays blank, and its row is bad.
        blank = not isinstance(passage, str) or not passage.strip()
        text = passage if blank else template.render(row.values)
        if isinstance(text, Problem):
            yield row._replace(values={}, problem=text)
            return
        values = {QUERY_TEXT: row.values.get(QUERY_TEXT), GOLD_PASSAGE: text}
        if has_negatives:
            is_blank = _is_empty(negative)
            values[HARD_NEGATIVE] = [] if is_blank else [negative]
            if not is_blank and negative == passage:
                problem = Problem(f"{HARD_NEGATIVE} equals the row's own {GOLD_PASSAGE}", negative)
                yield row._replace(values={}, problem=problem)
                return
        yield row._replace(values=values, declared=None)

    return RowFormat(
        "simpletransformers' columns", columns, lambda rows: chain.from_iterable(map(convert, rows))
    )
